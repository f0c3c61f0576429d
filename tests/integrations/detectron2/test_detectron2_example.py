"""examples/detectron2_train.py, called as Detectron2's tools/train_net.py is."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.model_zoo import get_config_file
from small_detectron2 import NAME, SIDE, SMALL

from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.settings import ShapesSettings

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "detectron2_train.py"
OPTIONS = {
    **SMALL,
    "DATASETS.TRAIN": ("example_train",),
    "DATASETS.TEST": ("example_val",),
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.ROI_HEADS.NUM_CLASSES": 4,
    "MODEL.PIXEL_STD": [1e3] * 3,
    "INPUT.MASK_FORMAT": "bitmask",
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "COPY_PASTE.P": 1.0,
    "COPY_PASTE.SCALE_RANGE": (0.5, 1.5),
}


@pytest.fixture
def arguments(tmp_path):
    """What the script is called with, before flags and further keys."""
    shapes = draw_shapes(ShapesSettings(folder=str(tmp_path / "shapes"), train=4, val=2, size=SIDE))
    data = [
        ["--data", f"example_{split}", str(shapes / f"annotations/instances_{split}.json"), str(shapes / split)]
        for split in ("train", "val")
    ]
    return [*data[0], *data[1], "--num-gpus", "0", "--config-file", get_config_file(NAME)]


def options(folder, **changes):
    keys = OPTIONS | {"OUTPUT_DIR": str(folder)} | {key.replace("__", "."): value for key, value in changes.items()}
    return [str(part) for pair in keys.items() for part in pair]


def in_this_process(monkeypatch, *arguments):
    """Run the script without the seconds that a new process takes to import everything."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        for name in ("example_train", "example_val"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_it_trains_goes_on_and_evaluates(arguments, tmp_path, monkeypatch):
    folder = tmp_path / "output"
    command = [sys.executable, str(SCRIPT), *arguments, *options(folder, SOLVER__MAX_ITER=2)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "Evaluation results for segm" in done.stdout
    assert rows(folder)[0]["copy_paste/p"] == 1
    assert rows(folder)[0]["copy_paste/instances_per_image"] > 0
    first = len(rows(folder))
    in_this_process(monkeypatch, *arguments, "--resume", *options(folder, SOLVER__MAX_ITER=4))
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert [row["iteration"] for row in rows(folder)[first:] if "total_loss" in row] == [3]
    (folder / "inference" / "coco_instances_results.json").unlink()
    in_this_process(monkeypatch, *arguments, "--eval-only", "--resume", *options(folder))
    assert json.loads((folder / "inference" / "coco_instances_results.json").read_text())


def test_a_setting_that_cannot_be_is_refused_before_training(arguments, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^p: expected .* got 2"):
        in_this_process(monkeypatch, *arguments, *options(tmp_path / "output", COPY_PASTE__P=2.0))
