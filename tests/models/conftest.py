"""Tiny batches, and the smallest model."""

import pytest
import torch

from composer_copypaste import MaskRCNN


@pytest.fixture
def small_model():
    torch.manual_seed(0)
    return MaskRCNN(num_classes=3, backbone="small", resize_training=False)


@pytest.fixture
def batch():
    """Two pictures of 64 pixels: the first with an object and a crowd, the second with an object."""
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 10:30, 8:40] = 1
    masks[1, 40:60, 20:50] = 1
    boxes = torch.tensor([[8.0, 10.0, 40.0, 30.0], [20.0, 40.0, 50.0, 60.0]])
    targets = [target(boxes, [1, 2], masks, [0, 1], 7), target(boxes[:1], [1], masks[:1], [0], 9)]
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), targets


def target(boxes, labels, masks, iscrowd, image_id):
    return {
        "boxes": boxes,
        "labels": torch.tensor(labels),
        "masks": masks,
        "area": masks.sum((1, 2)).float(),
        "iscrowd": torch.tensor(iscrowd),
        "image_id": torch.tensor(image_id),
    }
