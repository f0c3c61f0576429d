import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from torchvision.models.detection.roi_heads import paste_masks_in_image

from composer_copypaste.models.postprocess import encode_masks


def pasted_and_encoded(masks, boxes, size):
    images = paste_masks_in_image(masks, boxes, size)[:, 0] > 0.5
    return [coco_masks.encode(np.asfortranarray(image.numpy().astype(np.uint8))) for image in images]


def random_boxes(size, count, generator, *, side):
    """Boxes of up to ``side`` pixels, some partly outside the image."""
    height, width = size
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    half = torch.rand(count, 2, generator=generator) * side / 2
    return torch.cat([centre - half, centre + half], dim=1)


@pytest.mark.parametrize("side", [3, 20, 90])
@pytest.mark.parametrize("size", [(48, 70), (61, 33)])
def test_encoded_masks_have_the_bytes_of_torchvisions_pasted_masks(size, side):
    generator = torch.Generator().manual_seed(side)
    boxes = random_boxes(size, 60, generator, side=side)
    masks = torch.rand(60, 1, 28, 28, generator=generator)

    assert encode_masks(masks, boxes, size) == pasted_and_encoded(masks, boxes, size)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 20, 16),
        (0, 4, 20, 8),
        (3, 0, 17, 16),
        (-5, -5, 25, 21),
        (19.9, 15.9, 20, 16),
        (0, 0, 0.2, 0.2),
        (5, 5, 5, 5),
        (10.4, 3.6, 30, 40),
    ],
)
@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
def test_encoded_masks_agree_at_the_borders_of_the_image(box, fill):
    boxes = torch.tensor([box], dtype=torch.float32)
    masks = torch.full((1, 1, 28, 28), fill)

    assert encode_masks(masks, boxes, (16, 20)) == pasted_and_encoded(masks, boxes, (16, 20))


def test_runs_that_go_on_in_the_next_column_are_joined():
    masks = torch.ones(1, 1, 28, 28)
    (encoded,) = encode_masks(masks, torch.tensor([[-4.0, -4.0, 24.0, 20.0]]), (16, 20))

    assert coco_masks.decode(encoded).all()
    assert encoded["counts"] == coco_masks.encode(np.ones((16, 20), dtype=np.uint8, order="F"))["counts"]


def test_no_detections_give_no_masks():
    assert encode_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (16, 20)) == []
