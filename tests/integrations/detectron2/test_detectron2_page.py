"""The examples for Detectron2 run that its page has; those that need none are tested in tests/test_docs.py."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from doc_pages import DOCS, blocks
from small_detectron2 import SIDE, small_cfg

from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.settings import ShapesSettings

EXAMPLES = [code for _, code in blocks(DOCS / "detectron2.md", "py")]


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_for_detectron2_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = draw_shapes(ShapesSettings(folder="data/shapes", train=4, val=1, size=SIDE))
    register_coco_instances("train", {}, str(shapes / "annotations/instances_train.json"), str(shapes / "train"))
    cfg = small_cfg(4)
    cfg.merge_from_list(["DATASETS.TRAIN", ("train",), "DATASETS.TEST", (), "INPUT.MASK_FORMAT", "bitmask"])
    cfg.merge_from_list(["SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list(["MODEL.PIXEL_STD", [1e3] * 3])
    names = set(DatasetCatalog)
    try:
        exec(compile(code, "detectron2.md", "exec"), {"cfg": cfg, "loader": None})
    finally:
        for name in {"train", *DatasetCatalog} - (names - {"train"}):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_there_are_examples():
    assert len(EXAMPLES) >= 2
