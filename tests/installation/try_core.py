"""The package alone: what it holds, how fast it starts, what works, and what names the extra that it needs."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from data_set import batch, copypaste, refuses, write_data_set

IMPORT_SECONDS, HELP_SECONDS = 0.1, 0.15
EXTRAS = "pip install 'composer-copypaste[{}]'"
COMPOSER = "training, CopyPaste and MaskRCNN need MosaicML Composer, which is not installed: " + EXTRAS.format(
    "composer"
)


def try_files() -> None:
    """Recipes, their schemas and the mark of typed packages are there."""
    package = files("composer_copypaste")
    assert package.joinpath("py.typed").is_file()
    for schema in ("recipes/schema.json", "recipes/ablations/schema.json"):
        assert json.loads(package.joinpath(schema).read_text(encoding="utf-8"))["properties"]
    listed = copypaste("recipe", "list")
    assert all(name in listed for name in ("quickstart", "finetune", "mask_rcnn_r50_copy_paste", "parts"))
    assert "copy_paste:" in copypaste("recipe", "show", "quickstart")
    assert copypaste("--version").split()[-1] == version("composer-copypaste")


def processor_seconds(command: Sequence[str]) -> float:
    """Processor time of a command, the least of five: wall time on an idle machine is as much."""
    return min(_processor_seconds_once(command) for _ in range(5))


def _processor_seconds_once(command: Sequence[str]) -> float:
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def try_speed() -> None:
    """Importing the package and asking for help are instant."""
    empty = processor_seconds([sys.executable, "-c", ""])
    imported = processor_seconds([sys.executable, "-c", "import composer_copypaste"]) - empty
    helped = processor_seconds(["copypaste", "--help"])
    print(f"import {imported:.3f} s, --help {helped:.3f} s")
    assert imported < IMPORT_SECONDS, imported
    assert helped < HELP_SECONDS, helped


def try_copypaste() -> None:
    """Copy-paste, a plan as JSON, and the metric."""
    import torch

    from composer_copypaste import CocoMeanAveragePrecision, PastePlan, copypaste_batch, plan_batch

    images, targets = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Numba compiles: were it not so, a warning would say so
        pasted, changed = copypaste_batch(images, targets, p=1, p_instance=1.0, scale_range=(1, 1), p_flip=0)
    assert [len(target["labels"]) for target in changed] == [2, 2]
    assert torch.equal(pasted[0, :, 35:55, 20:60], images[1, :, 35:55, 20:60])
    plan = plan_batch(images, targets, p=1, generator=torch.Generator().manual_seed(0))
    assert PastePlan.from_json(plan.to_json()) == plan

    metric = CocoMeanAveragePrecision()
    metric.update([{**target, "scores": torch.ones(1)} for target in targets], targets)
    assert metric.compute()["segm/AP"] > 0.999


def try_training(images: Path, annotations: Path) -> None:
    """A data set, its loader, and a step of a plain Mask R-CNN."""
    from composer_copypaste import CocoInstances, DetectorSettings, build_detector, copypaste_batch, training_dataloader

    data = CocoInstances(images, annotations)
    model = build_detector(3, DetectorSettings(name="mask_rcnn", backbone="small", min_size=64, max_size=64))
    for pixels, targets in training_dataloader(data, batch_size=2):
        pixels, targets = copypaste_batch(pixels, targets, p=1)
        losses = model([image / 255 for image in pixels], targets)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())


def try_commands(images: Path, annotations: Path) -> None:
    """Commands that need no extra."""
    place = ["--images", str(images), "--annotations", str(annotations)]
    described = copypaste("info", str(annotations), "--images", str(images)).splitlines()
    assert ["objects", "8"] in map(str.split, described)
    copypaste("augment", "twice", *place)
    assert len(json.loads(Path("twice/annotations.json").read_text(encoding="utf-8"))["images"]) == 8
    copypaste("split", "parts", *place, "--parts", "a=0.5,b=0.5")


def try_missing(images: Path, annotations: Path) -> None:
    """What needs an extra says which, in one line, and writes nothing."""
    place = ["--images", str(images), "--annotations", str(annotations)]
    before = sorted(Path().rglob("*"))
    refuses(COMPOSER, "train", "quickstart")
    shards = f"shards need mosaicml-streaming, which is not installed: {EXTRAS.format('streaming')}"
    refuses(shards, "shard", "new", *place)
    dask = f"--dask needs Dask Distributed, which is not installed: {EXTRAS.format('dask')}"
    refuses(dask, "augment", "new", *place, "--dask", "tcp://127.0.0.1:9")
    assert sorted(Path().rglob("*")) == before

    import composer_copypaste
    from composer_copypaste import DetectorSettings, build_detector, export_onnx

    settings = DetectorSettings(name="mask_rcnn", backbone="timm/test_resnet", min_size=64)
    small = build_detector(3, DetectorSettings(name="mask_rcnn", backbone="small", min_size=64))
    raises(COMPOSER, lambda: composer_copypaste.CopyPaste)
    raises(
        f"CopyPasteCallback needs Lightning, which is not installed: {EXTRAS.format('lightning')}",
        lambda: composer_copypaste.CopyPasteCallback,
    )
    raises(
        f"backbones of timm need timm, which is not installed: {EXTRAS.format('timm')}",
        lambda: build_detector(3, settings),
    )
    raises(
        f"ONNX files need onnx, which is not installed: {EXTRAS.format('onnx')}",
        lambda: export_onnx(small, Path("new.onnx"), categories=["nut", "fig"], images=[batch()[0][0]]),
    )


def raises(expected: str, call: Callable[[], object]) -> None:
    """Checks that a call raises ``MissingPackageError`` with this line."""
    from composer_copypaste.errors import MissingPackageError

    try:
        call()
    except MissingPackageError as error:
        said = str(error)
    else:
        said = "nothing"
    assert said == expected, said


if __name__ == "__main__":
    try_files()
    try_speed()
    try_copypaste()
    places = write_data_set()
    try_training(*places)
    try_commands(*places)
    try_missing(*places)
