"""The examples for other training loops, each with the real package; those of packages that are missing are skipped.

`make test-core` installs Lightning, Transformers and Datasets.
"""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.settings import ShapesSettings

EXAMPLES = Path(__file__).parent.parent / "examples"
OF_LOOPS = ("plain_pytorch", "lightning_train", "hugging_face_train", "tv_tensors_loader", "supervision_both_ways")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = draw_shapes(ShapesSettings(folder=str(tmp_path_factory.mktemp("shapes")), train=8, val=1, size=64))
    return str(folder / "train"), str(folder / "annotations" / "instances_train.json")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize("name", OF_LOOPS)
def test_an_example_is_short_and_says_how_it_is_run(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 40
    assert f" examples/{name}.py " in text.split('"""')[1]


def test_the_line_that_python_shows_where_a_package_is_missing_says_how_it_is_installed():
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = {re.match(r"\w+", each).group() for each in project["dependencies"]} | {
        "PIL",
        "card",
        "composer_copypaste",
    }
    optional = {}
    for file in EXAMPLES.glob("*.py"):
        imports = re.findall(r"^((?:import|from) (\w+).*)$", file.read_text(), re.MULTILINE)
        first = {package: line for line, package in reversed(imports)}
        optional |= {package: first[package] for package in first.keys() - always - sys.stdlib_module_names}
    assert sorted(optional) == ["datasets", "detectron2", "lightning", "supervision", "transformers"]
    for line in optional.values():
        assert re.search("  # (pip install |built from source: https://)", line)


NEEDS = {"lightning_train": ["lightning"], "hugging_face_train": ["datasets", "transformers"]}
NEEDS["supervision_both_ways"] = ["supervision"]


@pytest.mark.parametrize("name", OF_LOOPS)
def test_an_example_says_in_a_line_which_argument_it_lacks_or_cannot_use(name, monkeypatch, capsys):
    for package in NEEDS.get(name, []):
        pytest.importorskip(package)
    Path("here").touch()
    given = {"": f" examples/{name}.py ", "nowhere here out": "'nowhere' does not exist."}
    more = {"here x": "'x' is not a valid integer." if "face" in name else "'x' does not exist."}
    if name == "supervision_both_ways":
        more["here here here"] = "'here' is there already; name a new folder."
    for line, message in (given | more).items():
        monkeypatch.setattr(sys, "argv", [name, *line.split()])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert ended.value.code == 2
        assert message.lower() in " ".join(capsys.readouterr().err.lower().split())


def test_two_processes_train_on_other_batches_and_stay_one_model(shapes, tmp_path):
    code = (
        "import runpy, sys, torch\n"
        "class Watched(torch.nn.parallel.DistributedDataParallel):\n"
        "    def forward(self, images, targets):\n"
        "        losses = super().forward(images, targets)\n"
        "        rank = torch.distributed.get_rank()\n"
        "        state = torch.cat([values.flatten() for values in self.parameters()]).detach()\n"
        "        torch.save([state, images, targets], f'{rank}.{len(list(self.seen))}.pt')\n"
        "        self.seen.append(rank)\n"
        "        return losses\n"
        "Watched.seen = []\n"
        "torch.nn.parallel.DistributedDataParallel = Watched\n"
        f"runpy.run_path({str(EXAMPLES / 'plain_pytorch.py')!r}, run_name='__main__')\n"
    )
    Path("watched.py").write_text(code)
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    launched += ["--rdzv-endpoint", "localhost:0", "watched.py", *shapes]
    done = subprocess.run(launched, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = re.findall(r"process (\d), batch (\d): \d+\.\d{3}", done.stdout)
    assert sorted(printed) == [(str(rank), str(batch)) for rank in range(2) for batch in range(2)]
    first, second = ([torch.load(f"{rank}.{batch}.pt") for batch in range(2)] for rank in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one[0], other[0])  # the weights
        assert not any(torch.equal(a, b) for a in one[1] for b in other[1])  # the images
    assert not torch.equal(first[0][0], first[1][0])


def test_lightning_trains_and_its_checkpoint_has_copy_pastes_state(shapes):
    pytest.importorskip("lightning")
    trainer = example("lightning_train")["train"](*shapes)
    trainer.save_checkpoint("last.ckpt")
    state = torch.load("last.ckpt", weights_only=False)["callbacks"]["CopyPasteCallback"]
    assert trainer.global_step == 4
    assert state["seed"] == 0
    assert len(state["banks"]) == 1
    assert trainer.callback_metrics["copy_paste/p"] == 0.5  # after the warm-up


def test_mask2former_trains_on_rows_of_a_parquet_file(shapes, capsys):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("transformers")
    content = json.loads(Path(shapes[1]).read_text())
    rows = [
        {"image": str(Path(shapes[0], image["file_name"])), "objects": objects(content, image["id"])}
        for image in content["images"]
    ]
    datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet("train.parquet")
    example("hugging_face_train")["train"]("train.parquet")
    losses = re.findall(r"(\d+) objects, loss (\d+\.\d{3})\n", capsys.readouterr().out)
    assert len(losses) == 4
    assert all(int(count) > 0 and float(loss) > 0 for count, loss in losses)


def objects(content, image):
    """The usual column of Hugging Face's COCO data sets: a list of each key, classes from 0."""
    own = [annotation for annotation in content["annotations"] if annotation["image_id"] == image]
    columns = {key: [one[key] for one in own] for key in ("id", "bbox", "area", "segmentation")}
    return columns | {"category": [one["category_id"] - 1 for one in own]}


def test_a_loader_gives_tv_tensors_with_pasted_objects(shapes):
    from torchvision import tv_tensors

    torch.manual_seed(0)
    loader = example("tv_tensors_loader")["loader"](*shapes)
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [4, 4]
    for images, targets in batches:
        assert {type(image) for image in images} == {tv_tensors.Image}
        assert {type(target["boxes"]) for target in targets} == {tv_tensors.BoundingBoxes}
        assert {type(target["masks"]) for target in targets} == {tv_tensors.Mask}
    annotated = len(json.loads(Path(shapes[1]).read_text())["annotations"])
    assert sum(len(target["labels"]) for _, targets in batches for target in targets) > annotated


def test_supervision_reads_draws_and_writes_what_is_pasted(shapes):
    supervision = pytest.importorskip("supervision")
    example("supervision_both_ways")["paste"](*shapes, "new/pasted")
    written = "new/pasted/annotations.json"
    before, after = CocoAnnotations.load(shapes[1]), CocoAnnotations.load(written, bad_objects="leave_out")
    assert [category.name for category in after.categories] == [category.name for category in before.categories]
    assert after.num_objects > before.num_objects
    again = supervision.DetectionDataset.from_coco("new/pasted", written, force_masks=True)
    assert len(again) == 8
    same = []
    for image in before.images:
        name = Path(image.file_name).with_suffix(".png")
        former, pasted = (np.array(Image.open(folder / name)) for folder in (Path(shapes[0]), Path("new/pasted")))
        same.append((former == pasted).all(axis=2).mean())
    assert min(same) > 0.3  # red and blue are not exchanged
    assert np.mean(same) < 0.99  # something was pasted
