"""``CopyPasteTransform`` in a data loader, with tensors and with torchvision's tv_tensors."""

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from composer_copypaste import CopyPasteSettings, CopyPasteTransform, copypaste_batch
from composer_copypaste.errors import DataError

FORMATS = {"XYXY": [5.0, 5, 20, 22], "XYWH": [5.0, 5, 15, 17], "CXCYWH": [12.5, 13.5, 15, 17]}


def sample(number, kind="XYXY"):
    generator = torch.Generator().manual_seed(number)
    mask = torch.zeros((1, 40, 40), dtype=torch.uint8)
    mask[:, 5:22, 5:20] = 1
    target = {
        "boxes": tv_tensors.BoundingBoxes([FORMATS[kind]], format=kind, canvas_size=(40, 40)),
        "labels": torch.tensor([number + 1]),
        "masks": tv_tensors.Mask(mask),
    }
    return tv_tensors.Image(torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=generator)), target


def test_it_is_copypaste_batch_with_torchs_own_random_numbers():
    images, targets = zip(*(sample(k) for k in range(3)), strict=True)
    torch.manual_seed(4)
    expected = copypaste_batch(images, targets, settings=CopyPasteSettings(p=1.0, rotation=20.0))
    torch.manual_seed(4)
    found = CopyPasteTransform(p=1.0, rotation=20.0)(images, targets)
    assert isinstance(found[1], tuple)
    assert all(map(torch.equal, found[0], expected[0]))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(found[1], expected[1], strict=True) for key in b)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_loaders_batches_keep_the_kind_of_their_tensors_and_the_format_of_boxes(kind):
    torch.manual_seed(0)
    collate = CopyPasteTransform(p=1.0, scale_range=(1.0, 1.0), p_flip=0.0, p_instance=1.0).collate
    images, targets = next(iter(DataLoader([sample(k, kind) for k in range(2)], batch_size=2, collate_fn=collate)))
    assert [type(image) for image in images] == [tv_tensors.Image] * 2
    for image, target, other in zip(images, targets, (1, 0), strict=True):
        assert type(target["boxes"]) is tv_tensors.BoundingBoxes
        assert target["boxes"].format.name == kind
        assert target["boxes"].tolist() == [FORMATS[kind]]  # the other image's object hides the own one
        assert target["labels"].tolist() == [other + 1]
        assert type(target["masks"]) is tv_tensors.Mask
        assert torch.equal(image[:, 5:22, 5:20], sample(other)[0][:, 5:22, 5:20])


@pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="torchvision has KeyPoints from 0.23 on")
def test_key_points_move_with_their_objects_and_stay_key_points():
    samples = [sample(k) for k in range(2)]
    for number, (_, target) in enumerate(samples):
        points = [[[6.0 + number, 7.0], [18.0, 20.0]]]
        target["keypoints"] = tv_tensors.KeyPoints(points, canvas_size=(40, 40))
    settings = CopyPasteSettings(p=1.0, scale_range=(1.0, 1.0), p_flip=0.0, p_instance=1.0, keypoint_pairs=())
    _, targets = CopyPasteTransform(settings).collate(samples)
    for target, number in zip(targets, (1, 0), strict=True):
        assert type(target["keypoints"]) is tv_tensors.KeyPoints
        assert target["keypoints"].canvas_size == (40, 40)
        assert target["keypoints"].tolist() == [[[6.0 + number, 7.0], [18.0, 20.0]]]


ROTATED = {
    "XYWHR": [5.0, 5, 15, 17, 0],
    "CXCYWHR": [12.5, 13.5, 15, 17, 0],
    "XYXYXYXY": [5.0, 5, 20, 5, 20, 22, 5, 22],
}
has_rotated = pytest.mark.skipif(
    not hasattr(tv_tensors.BoundingBoxFormat, "XYXYXYXY"), reason="torchvision has rotated boxes from 0.23 on"
)


def rotated_samples(kind, key):
    samples = [sample(k) for k in range(2)]
    for _, target in samples:
        target[key] = tv_tensors.BoundingBoxes([ROTATED[kind]], format=kind, canvas_size=(40, 40))
    return samples


@has_rotated
@pytest.mark.parametrize("kind", ROTATED)
def test_rotated_boxes_in_place_of_upright_ones_are_refused_with_what_to_do(kind):
    with pytest.raises(ValueError, match=rf"CXCYWH, got {kind}; give rotated boxes under a key of their own") as raised:
        CopyPasteTransform(p=1.0).collate(rotated_samples(kind, "boxes"))
    assert "\n" not in str(raised.value)


@has_rotated
@pytest.mark.parametrize(("kind", "declared"), [("CXCYWHR", "obb_degrees"), ("XYXYXYXY", "corners")])
def test_declared_rotated_boxes_move_with_their_objects_and_keep_their_format(kind, declared):
    settings = CopyPasteSettings(
        p=1.0, p_instance=1.0, scale_range=(0.5, 0.5), p_flip=0.0, min_visibility=0.5, geometry={"rotated": declared}
    )
    torch.manual_seed(1)
    _, targets = CopyPasteTransform(settings).collate(rotated_samples(kind, "rotated"))
    for target in targets:
        assert type(target["rotated"]) is tv_tensors.BoundingBoxes
        assert target["rotated"].format.name == kind
        rotated, (x1, y1, x2, y2) = target["rotated"][-1].tolist(), target["boxes"][-1].tolist()
        expected = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0]
        if kind == "XYXYXYXY":
            expected = [x1, y1, x2, y1, x2, y2, x1, y2]
        assert rotated == pytest.approx(expected, abs=1)  # upright boxes are of whole pixels


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": "1ep"}, "warmup: expected None, as a loader does not know the training's time, got '1ep'"),
        ({"bank_size": 5}, "bank_size: expected 0, as a loader has no bank, got 5"),
        ({"p": 2.0}, "p: expected at most 1"),
    ],
)
def test_settings_that_a_loader_cannot_follow_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CopyPasteTransform(**settings)


def test_a_map_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(DataError, match=r"lost\.npy: "):
        CopyPasteTransform(placement="random", place_map=str(tmp_path / "lost.npy"))


def test_it_shows_the_settings_that_were_changed():
    assert repr(CopyPasteTransform(p=1.0, rotation=20.0)) == "CopyPasteTransform(p=1.0, rotation=20.0)"
