"""The data set: images and targets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import annotation
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.data.image_files import check_images
from composer_copypaste.data.transforms import LargeScaleJitterTransform
from composer_copypaste.errors import DataError
from composer_copypaste.settings import LargeScaleJitterSettings

REAL = Path(__file__).parents[3] / "shared" / "data"


def test_a_target_holds_what_the_file_says(coco_file, gradient):
    path = coco_file(annotation(bbox=[2, 1, 4, 4], area=15.5, iscrowd=1))
    image, target = CocoInstances(path.parent, path, crowds="ignore")[0]
    mask = torch.zeros(1, 8, 12, dtype=torch.uint8)
    mask[0, 1:5, 2:6] = 1
    assert torch.equal(image, torch.from_numpy(gradient).permute(2, 0, 1))
    assert {key: (value.dtype, value.tolist()) for key, value in target.items()} == {
        "boxes": (torch.float32, [[2, 1, 6, 5]]),
        "labels": (torch.int64, [2]),
        "area": (torch.float32, [15.5]),
        "iscrowd": (torch.int64, [1]),
        "masks": (torch.uint8, mask.tolist()),
        "image_id": (torch.int64, 7),
    }


def test_boxes_are_cut_at_the_image_s_edge(coco_file, gradient):
    path = coco_file(annotation(bbox=[-1.5, -2, 20, 8], segmentation=[[0, 0, 12, 0, 12, 6, 0, 6]]))
    assert CocoInstances(path.parent, path)[0][1]["boxes"].tolist() == [[0, 0, 12, 6]]


def test_an_image_without_objects_has_empty_fields(coco_file, gradient):
    images = [{"id": number, "file_name": f"{number}.png", "height": 8, "width": 12} for number in (8, 7)]
    path = coco_file(images=images)
    Image.fromarray(gradient).save(path.parent / "8.png")
    target = CocoInstances(path.parent, path)[0][1]
    shapes = {key: tuple(target[key].shape) for key in ("boxes", "labels", "masks", "area", "iscrowd")}
    assert shapes == {"boxes": (0, 4), "labels": (0,), "masks": (0, 8, 12), "area": (0,), "iscrowd": (0,)}


def test_masks_can_be_left_out(coco_file, gradient):
    path = coco_file()
    assert "masks" not in CocoInstances(path.parent, path, masks=False)[0][1]


def test_iterating_ends_after_the_last_image(coco_file, gradient):
    path = coco_file()
    assert len(list(CocoInstances(path.parent, path))) == 1


def test_parts_of_an_object_are_united(coco_file, gradient):
    parts = [[0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0], [1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]]
    path = coco_file(annotation(segmentation=parts))
    masks = CocoInstances(path.parent, path)[0][1]["masks"]
    assert masks.max() == 1
    assert masks.sum() == 4 + 6 - 1


@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
def test_masks_from_run_lengths_equal_pycocotools(coco_file, gradient, density):
    mask = (np.random.default_rng(1).random((8, 12)) < density).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(mask))
    box = coco_mask.toBbox(rle).tolist()
    path = coco_file(annotation(bbox=box, segmentation={"size": [8, 12], "counts": rle["counts"].decode()}))
    assert np.array_equal(CocoInstances(path.parent, path)[0][1]["masks"][0].numpy(), mask)


def jittered(path: Path, seed: int = 0) -> CocoInstances:
    return CocoInstances(
        path.parent, path, LargeScaleJitterTransform(LargeScaleJitterSettings(size=(32, 32))), seed=seed
    )


def test_the_same_seed_epoch_and_index_give_the_same_sample(coco_file, gradient):
    path = coco_file()
    torch.manual_seed(1)
    first = jittered(path)[(3, 0)][0]
    torch.manual_seed(2)
    assert torch.equal(first, jittered(path)[(3, 0)][0])


def test_another_seed_or_epoch_gives_another_sample(coco_file, gradient):
    path = coco_file()
    first = jittered(path)[(3, 0)][0]
    assert not torch.equal(first, jittered(path)[(4, 0)][0])
    assert not torch.equal(first, jittered(path, seed=1)[(3, 0)][0])


def test_an_index_alone_is_of_the_first_epoch(coco_file, gradient):
    dataset = jittered(coco_file())
    assert torch.equal(dataset[0][0], dataset[(0, 0)][0])


def test_a_negative_index_counts_from_the_end(coco_file, gradient):
    dataset = jittered(coco_file())
    assert torch.equal(dataset[-1][0], dataset[0][0])


def test_the_images_problems_are_listed_together(coco_file, tmp_path):
    names = ["missing.png", "turned.png", "broken.png", "good.png"]
    images = [{"id": n, "file_name": name, "height": 8, "width": 12} for n, name in enumerate(names)]
    Image.new("RGB", (8, 12)).save(tmp_path / "turned.png")
    Image.new("RGB", (12, 8)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_text("no image")
    annotations = CocoAnnotations.load(coco_file(annotation(image_id=0), images=images))
    with pytest.raises(DataError) as caught:
        check_images(annotations, tmp_path)
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        f"{tmp_path}: 3 problems",
        "missing.png (image 0): the file is missing",
        "turned.png (image 1): the image is 8 x 12 (width x height), the annotations say 12 x 8",
        "broken.png (image 2): the image cannot be decoded: not an image in a known format",
    ]


def test_good_images_pass(coco_file, gradient, tmp_path):
    check_images(CocoAnnotations.load(coco_file()), tmp_path)


def test_a_missing_folder_is_one_line(coco_file, tmp_path):
    with pytest.raises(DataError, match="there is no such folder of images"):
        check_images(CocoAnnotations.load(coco_file()), tmp_path / "no")


@pytest.mark.parametrize("name", ["coco_smoke", "fruits_nuts", "nuclei_dsb2018"])
def test_real_masks_equal_pycocotools_to_the_pixel(name):
    path = REAL / name / "annotations" / "instances_val.json"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    dataset, truth = CocoInstances(REAL / name / "val", path), COCO(str(path))
    check_images(dataset.annotations, dataset.images)
    for index in range(6):
        target = dataset[index][1]
        entries = truth.imgToAnns[int(target["image_id"])]
        expected = [truth.annToMask(entry) for entry in entries]
        assert np.array_equal(target["masks"].numpy(), np.array(expected).reshape(target["masks"].shape))
        assert target["labels"].tolist() == [truth.getCatIds().index(entry["category_id"]) + 1 for entry in entries]
