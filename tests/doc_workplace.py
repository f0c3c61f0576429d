"""The folder in which the examples of the documentation run, with everything that they name."""

import json
from pathlib import Path

from PIL import Image
from small_runs import small_run

from composer_copypaste import CocoMeanAveragePrecision
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.streaming.write import write_shards
from composer_copypaste.models.detectron2_pickle import write_pickle
from composer_copypaste.models.detectron2_weights import to_detectron2
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.settings import MaskRCNNSettings, ShapesSettings


def make_workplace(folder: Path, recipe: str) -> None:
    """Fill a folder; the recipe is that of the pages, and is called ``my_recipe.yaml`` there."""
    shapes = draw_shapes(ShapesSettings(folder=str(folder / "data" / "shapes"), train=8, val=4, size=64))
    (folder / "photos").mkdir()
    for split in ("train", "val"):
        (folder / "photos" / split).symlink_to(shapes / split)
        (folder / f"{split}.json").symlink_to(shapes / "annotations" / f"instances_{split}.json")
        write_shards(folder / "shards" / split, folder / "photos" / split, folder / f"{split}.json")
    (folder / "cutouts" / "star").mkdir(parents=True)
    Image.new("RGBA", (9, 9), "white").save(folder / "cutouts" / "star" / "1.png")
    write_matches(folder / "runs")
    write_results(folder)
    write_zoo_file(folder / "model_final.pkl")
    small_run(folder / "runs" / "shapes")
    (folder / "my_recipe.yaml").write_text(recipe)


def write_results(folder: Path) -> None:
    """COCO results that find each object exactly."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    objects = json.loads((folder / "val.json").read_text())["annotations"]
    results = [{key: one[key] for key in keys} | {"score": 0.9} for one in objects]
    (folder / "results.json").write_text(json.dumps(results))


def write_zoo_file(path: Path) -> None:
    """Random weights in the form of Detectron2's zoo."""
    settings = MaskRCNNSettings(style="detectron2", norm="frozen_batch")
    write_pickle(to_detectron2(build_mask_rcnn(81, settings).state_dict()), path)


def write_matches(runs: Path) -> None:
    """The matches of three trainings each with and without copy-paste, which all found nothing."""
    metric = CocoMeanAveragePrecision(runs.parent / "val.json")
    nothing = {"boxes": [], "scores": [], "labels": []}
    metric.update([nothing], [{"image_id": 1}])
    for name in ("plain", "pasted"):
        for seed in (1, 2, 3):
            (runs / f"{name}-{seed}").mkdir(parents=True)
            metric.matches().save(runs / f"{name}-{seed}" / "matches.npz")
