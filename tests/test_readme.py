"""Every example of the README runs; its table of settings is the dataclass's.

``python tests/test_readme.py`` writes the table again.
"""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints
from unittest.mock import create_autospec

import pytest
from click.testing import CliRunner
from PIL import Image
from pydantic import TypeAdapter
from small_runs import small_run

from composer_copypaste.cli import main
from composer_copypaste.runs.ablation import run as ablate
from composer_copypaste.runs.ablation.plan import plan_runs
from composer_copypaste.runs.resume import MAY_CHANGE
from composer_copypaste.settings import CopyPasteSettings

README = Path(__file__).parent.parent / "README.md"
TABLE = re.compile(r"(<!-- settings:.*?-->\n)(.*?)(<!-- end of settings -->)", re.DOTALL)
SMALL = ["model.backbone=small", "model.weights=none", "training.duration=1ba", "data.workers=0", "schedule.warmup=0ba"]
SMALL += ["model.detections_per_image=10"]
"""What makes an example's training short and local."""


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\\\n\s*", "", block) for block in found]  # a command may go on in the next line


def settings_table() -> str:
    described = TypeAdapter(CopyPasteSettings).json_schema()["properties"]
    hints = get_type_hints(CopyPasteSettings, include_extras=True)
    rows = [
        f"| `{field.name}` | {field.default!r} | {limits(hints[field.name])} | "
        f"{' '.join(described[field.name]['description'].split())} |"
        for field in fields(CopyPasteSettings)
    ]
    return "\n".join(["| name | default | limits | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def limits(hint: object) -> str:
    """What its annotation says of a setting, of each of its numbers where there are several."""
    parts = [hint, *get_args(hint)]
    if choices := [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]:
        return ", ".join(f"'{choice}'" for choice in choices)
    for part in parts:
        found = getattr(part, "__metadata__", ())
        low, high = ([getattr(limit, end) for limit in found if hasattr(limit, end)] for end in ("ge", "le"))
        if low:
            return f"{low[0]} to {high[0]}" if high else f"from {low[0]}"
    return next((limits(part) for part in parts[1:] if limits(part)), "")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with everything that the examples name."""
    from composer_copypaste.data.shapes import draw_shapes
    from composer_copypaste.data.streaming.write import write_shards
    from composer_copypaste.settings import ShapesSettings

    folder = tmp_path_factory.mktemp("readme")
    shapes = draw_shapes(ShapesSettings(folder=str(folder / "data" / "shapes"), train=8, val=4, size=64))
    (folder / "photos").mkdir()
    for split in ("train", "val"):
        (folder / "photos" / split).symlink_to(shapes / split)
        (folder / f"{split}.json").symlink_to(shapes / "annotations" / f"instances_{split}.json")
    (folder / "cutouts" / "star").mkdir(parents=True)
    Image.new("RGBA", (9, 9), "white").save(folder / "cutouts" / "star" / "1.png")
    for split in ("train", "val"):
        write_shards(folder / "shards" / split, folder / "photos" / split, folder / f"{split}.json")
    write_matches(folder)
    write_results(folder)
    write_zoo_file(folder / "model_final.pkl")
    small_run(folder / "runs" / "shapes")
    (folder / "my_recipe.yaml").write_text(blocks("yaml")[0])
    return folder


def write_results(folder):
    """COCO results that find each object exactly."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    objects = json.loads((folder / "val.json").read_text())["annotations"]
    results = [{key: one[key] for key in keys} | {"score": 0.9} for one in objects]
    (folder / "results.json").write_text(json.dumps(results))


def write_zoo_file(path):
    """Random weights in the form of Detectron2's zoo."""
    from composer_copypaste.models.detectron2_pickle import write_pickle
    from composer_copypaste.models.detectron2_weights import to_detectron2
    from composer_copypaste.models.mask_rcnn import build_mask_rcnn
    from composer_copypaste.settings import MaskRCNNSettings

    settings = MaskRCNNSettings(style="detectron2", norm="frozen_batch")
    write_pickle(to_detectron2(build_mask_rcnn(81, settings).state_dict()), path)


def write_matches(folder):
    """The matches of three trainings each with and without copy-paste, which all found nothing."""
    from composer_copypaste import CocoMeanAveragePrecision

    metric = CocoMeanAveragePrecision(folder / "val.json")
    nothing = {"boxes": [], "scores": [], "labels": []}
    metric.update([nothing], [{"image_id": 1}])
    for name in ("plain", "pasted"):
        for seed in (1, 2, 3):
            (folder / "runs" / f"{name}-{seed}").mkdir(parents=True)
            metric.matches().save(folder / "runs" / f"{name}-{seed}" / "matches.npz")


def test_the_settings_table_is_that_of_the_dataclass():
    _, table, _ = TABLE.search(README.read_text()).groups()
    assert table == settings_table(), "run: python tests/test_readme.py"


def test_the_keys_that_may_change_are_those_of_the_code():
    listed = re.search(r"Only these may change: (.*?)\. ", README.read_text(), re.DOTALL)[1]
    assert set(re.findall(r"`([\w.]+)`", listed)) == MAY_CHANGE


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_example_runs(code, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(ablate, "run_ablation", create_autospec(ablate.run_ablation, side_effect=_plan))
    exec(compile(code, "README.md", "exec"), {})


def _plan(ablation, **options):
    """Stands for an ablation's trainings, which take minutes; `tests/runs/test_ablations.py` runs some."""
    return plan_runs(ablation)


def test_the_console_examples_run_in_their_order(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    commands = [line for block in blocks("console") for line in block.splitlines() if line.startswith("copypaste")]
    assert commands
    for command in commands:
        arguments = shlex.split(command)[1:]
        if arguments[0] == "train":
            output = [] if (workplace / "runs" / "mine").exists() else ["output=runs/mine"]
            arguments += [*SMALL, *output]
        if arguments[0] == "ablate":
            arguments += ["--dry-run", "fractions=[0.5,1]"]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_lines_are_short_enough_to_read():
    assert [line for line in README.read_text().splitlines() if len(line) > 135 and line[:1] not in ("|", "!")] == []


def test_the_map_of_the_package_names_each_of_its_folders():
    package = README.parent / "composer_copypaste"
    table = README.read_text().partition("Where things are")[2]
    named = {
        name.split("/")[0] for row in table.splitlines() if row[:3] == "| `" for name in re.findall(r"`([\w/]+/)`", row)
    }
    assert {path.name for path in package.iterdir() if (path / "__init__.py").is_file()} <= named


def test_make_has_the_targets_that_the_readme_names():
    makefile = (README.parent / "Makefile").read_text()
    named = re.findall(r"(?:^|`)make (\w+)", README.read_text(), re.MULTILINE)
    assert {"quickstart", "test", "gpu", "lint"} == set(named)
    assert all(f"\n{target}:" in makefile for target in named)


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda found: found[1] + settings_table() + found[3], README.read_text()))
