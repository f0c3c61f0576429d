"""Data sets of Detectron2's catalog here, and ours there."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from coco_files import SQUARE, annotation
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from composer_copypaste import AugmentSettings, CocoInstances, augment_data_set
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.errors import DataError
from composer_copypaste.integrations.detectron2.data import (
    register_data_set,
    registered_data_set,
    write_registered_data_set,
)
from composer_copypaste.settings import ShapesSettings

GAPS = [{"id": 90, "name": "nut"}, {"id": 3, "name": "fig"}, {"id": 17, "name": "pea"}]
TRIANGLE = [0.0, 0.0, 4.0, 0.0, 0.0, 4.0]
_numbers = count()


@pytest.fixture
def name():
    """A name that the catalog does not have."""
    name = f"test_{next(_numbers)}"
    yield name
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)


@pytest.fixture
def fruit(coco_file, gradient, tmp_path):
    """Images and annotations of three categories with gaps, in the file's own order; an object of each."""
    file = coco_file(
        annotation(1, category_id=90),
        annotation(2, category_id=3, segmentation=[TRIANGLE], bbox=[0, 0, 4, 4], area=8),
        annotation(3, category_id=17),
        categories=GAPS,
    )
    return tmp_path, file


def names_of_objects(data):
    """The category's name of each object of each image, by the images' ids."""
    found = {}
    for _, target in data:
        names = [data.categories[label - 1].name for label in target["labels"].tolist()]
        found[int(target["image_id"])] = names
    return found


def test_classes_and_category_ids_of_a_file_with_gaps_are_the_same_on_both_sides(name, fruit):
    images, file = fruit
    register_coco_instances(name, {}, str(file), str(images))
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    data = registered_data_set(name)
    assert metadata.thing_classes == [category.name for category in data.categories] == ["fig", "pea", "nut"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 17: 1, 90: 2}
    [(_, target)] = data
    assert (target["labels"] - 1).tolist() == [each["category_id"] for each in records[0]["annotations"]]
    assert data.annotations.category_ids == [3, 17, 90]


def test_a_registered_function_gives_the_same_data_as_the_file(name, fruit):
    images, file = fruit
    register_coco_instances(f"{name}_file", {}, str(file), str(images))
    records = DatasetCatalog.get(f"{name}_file")
    ids = MetadataCatalog.get(f"{name}_file").thing_dataset_id_to_contiguous_id
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["fig", "pea", "nut"], thing_dataset_id_to_contiguous_id=ids)
    [(image, target)], [(expected_image, expected)] = registered_data_set(name), CocoInstances(images, file)
    DatasetCatalog.remove(f"{name}_file")
    assert torch.equal(image, expected_image)
    assert target.keys() == expected.keys()
    for key, values in expected.items():
        assert torch.equal(target[key], values), key


def records_of(folder, **changes):
    """A data set in Detectron2's form: two images in two folders, of classes 1 and 0."""
    records = []
    for number, kind in enumerate(("a", "b")):
        (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 12, 3), 40 * number, dtype=np.uint8)).save(folder / kind / "1.png")
        mask = np.zeros((8, 12), dtype=np.uint8)
        mask[1:5, 2:6] = 1
        outline = [np.array(SQUARE)] if number else coco_mask.encode(np.asfortranarray(mask))
        entry = {"bbox": np.array([2, 1, 6, 5]), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1 - number}
        record = {"file_name": str(folder / kind / "1.png"), "height": 8, "width": 12, "image_id": 10 + number}
        records.append(record | {"annotations": [entry | {"segmentation": outline}]} | changes)
    return records


@pytest.mark.parametrize(("ids", "expected"), [(None, [0, 1]), ({30: 0, 7: 1}, [30, 7])])
def test_labels_are_classes_also_where_category_ids_run_the_other_way(name, tmp_path, ids, expected):
    DatasetCatalog.register(name, lambda: records_of(tmp_path))
    MetadataCatalog.get(name).set(thing_classes=["first", "second"])
    if ids is not None:
        MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = ids
    data = registered_data_set(name)
    assert names_of_objects(data) == {10: ["second"], 11: ["first"]}
    assert [int(target["labels"][0]) for _, target in data] == [2, 1]
    assert data.annotations.category_ids == expected


def test_masks_boxes_and_images_of_a_registered_function_are_read(name, tmp_path):
    DatasetCatalog.register(name, lambda: records_of(tmp_path))
    MetadataCatalog.get(name).thing_classes = ["first", "second"]
    for number, (image, target) in enumerate(registered_data_set(name)):
        assert image.unique().tolist() == [40 * number]
        assert target["boxes"].tolist() == [[2, 1, 6, 5]]
        assert target["area"].tolist() == [16]
        assert target["masks"].nonzero()[:, 1:].tolist() == [[y, x] for y in range(1, 5) for x in range(2, 6)]


def test_a_written_file_is_read_by_commands_and_the_records_stay_as_they_are(name, tmp_path):
    records = records_of(tmp_path)
    before = repr(records)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["first", "second"]
    folder = write_registered_data_set(name, tmp_path / "annotations.json")
    assert folder == tmp_path
    assert repr(records) == before
    assert names_of_objects(CocoInstances(folder, tmp_path / "annotations.json")) == {10: ["second"], 11: ["first"]}


def test_images_without_numbers_are_numbered_from_1(name, tmp_path):
    DatasetCatalog.register(name, lambda: records_of(tmp_path, image_id="1.png"))
    MetadataCatalog.get(name).thing_classes = ["first", "second"]
    assert names_of_objects(registered_data_set(name)) == {1: ["second"], 2: ["first"]}


@pytest.mark.parametrize(
    ("changes", "metadata", "message"),
    [
        ({}, {}, r"its metadata have no names of classes; MetadataCatalog.get\('test_\d+'\).thing_classes = "),
        (
            {"annotations": [{"bbox": [1, 1, 2, 2, 30], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}]},
            {"thing_classes": ["first"]},
            r"image 0 \(.*1.png\): expected boxes of 4 numbers, got 5: rotated",
        ),
        (
            {},
            {"thing_classes": ["first", "second"], "thing_dataset_id_to_contiguous_id": {4: 0, 5: 0, 6: 1}},
            r"expected a category id for each of its 2 classes, 0 to 1, .* got {4: 0, 5: 0, 6: 1}",
        ),
    ],
)
def test_what_cannot_be_read_is_named(name, tmp_path, changes, metadata, message):
    DatasetCatalog.register(name, lambda: records_of(tmp_path, **changes))
    MetadataCatalog.get(name).set(**metadata)
    with pytest.raises(DataError, match=f"^{name}: {message}"):
        registered_data_set(name)


def test_a_name_that_is_not_registered_is_refused(name):
    with pytest.raises(DataError, match=r"^coco_2017_tran: .* has no such data set; did you mean 'coco_2017_train'\?$"):
        registered_data_set("coco_2017_tran")


def test_a_data_set_of_ours_is_that_of_its_file_in_the_catalog(name, fruit):
    images, file = fruit
    register_data_set(name, CocoInstances(images, file))
    register_coco_instances(f"{name}_file", {}, str(file), str(images))
    found, expected = DatasetCatalog.get(name), DatasetCatalog.get(f"{name}_file")
    metadata, of_file = MetadataCatalog.get(name), MetadataCatalog.get(f"{name}_file")
    DatasetCatalog.remove(f"{name}_file")
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(expected))
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id", "image_root", "evaluator_type"):
        assert metadata.get(key) == of_file.get(key)
    with pytest.raises(DataError, match=f"^{name}: .* has a data set of this name"):
        register_data_set(name, CocoInstances(images, file))


def test_what_augment_writes_is_registered_by_detectron2s_own_function(name, tmp_path):
    shapes = draw_shapes(ShapesSettings(folder=str(tmp_path / "shapes"), train=4, val=1, size=64))
    annotations = shapes / "annotations/instances_train.json"
    written = augment_data_set(tmp_path / "more", shapes / "train", annotations, AugmentSettings(per_image=2))
    register_coco_instances(name, {}, str(written.annotations), str(written.images))
    records, ours = DatasetCatalog.get(name), CocoInstances(written.images, written.annotations)
    classes = MetadataCatalog.get(name).thing_classes
    assert len(records) == len(ours) == 12
    expected = names_of_objects(ours)
    for record in records:
        Image.open(record["file_name"]).verify()
        assert [classes[each["category_id"]] for each in record["annotations"]] == expected[record["image_id"]]
