"""A test from outside: one solid color for each object, and the truth is read off the image.

Nothing of the package is asked but ``copypaste_batch``. Each object has a color that nothing else has, and so has what
is around it, wide enough that a resized object has no other color mixed in. So after copy-paste the color of a pixel
says of which object it is, if it is of any; and a pixel whose color has changed is of one that was pasted.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from copypaste_cases import SEEDS, many, tritons_kernels, window_after_window
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from composer_copypaste import CompactMasks, InstanceBank, copypaste_batch

PLACES = [
    {"placement": "source"},
    {"placement": "near", "max_shift": 1.0},
    {"placement": "random"},
    {"placement": "anywhere"},
    {"placement": "anywhere", "place_region": [(0.2, 0.2), (0.9, 0.3), (0.5, 0.9)]},
    {"placement": "random", "place_map": [[0, 1], [3, 1]]},
    {"placement": "random", "vanishing_line": 0.1, "place_point": "bottom"},
]
OVERLAPS = [
    {},
    {"max_overlap": 0.3},
    {"max_overlap": 0.3, "overlap_by": "mask"},
    {"least_overlap_first": True, "max_copied_instances": 2},
]
JITTERS = [
    {"scale_range": (1.0, 1.0), "p_flip": 0.5},
    {"scale_range": (1.0, 1.0), "p_flip": 1.0, "p_flip_vertical": 0.5},
    {"scale_range": (0.3, 2.0)},
    {"scale_range": (0.3, 2.0), "jitter": "instance", "rotation": 180.0, "aspect_range": (0.5, 2.0)},
    {"scale_range": (0.7, 1.5), "jitter": "instance", "scale_distribution": "log_uniform", "erosion": 1},
]


def halved(image, alpha):
    """A transform that keeps the color and takes the right half of the object away."""
    return image, alpha * (torch.arange(alpha.shape[2]) < alpha.shape[2] / 2)


TRANSFORMS = [None, None, halved, v2.Compose([v2.RandomHorizontalFlip(), v2.Pad(1, padding_mode="edge")])]
SIDE, CELLS = 48, 2


@st.composite
def settings(draw):
    """Settings with which the colors of objects stay as they are."""
    return {
        "p": 1.0,
        "source": draw(st.sampled_from(["batch", "self", "both"])),
        "min_visibility": draw(st.sampled_from([0.0, 0.0, 0.3])),
        "object_transform": draw(st.sampled_from(TRANSFORMS)),
        **draw(st.sampled_from(PLACES)),
        **draw(st.sampled_from(OVERLAPS)),
        **draw(st.sampled_from(JITTERS)),
    }


def color_of(label):
    return 15 * label


def drawn_image(rng, first):
    """An image of cells of one color each, with a disc or a rectangle inside; labels count from ``first``."""
    side = SIDE // CELLS
    colors, masks = torch.zeros(SIDE, SIDE, dtype=torch.uint8), []
    y, x = np.mgrid[:side, :side]
    for cell in range(CELLS**2):
        rows, columns = (slice(side * k, side * (k + 1)) for k in divmod(cell, CELLS))
        colors[rows, columns] = color_of(first + cell)
        height, width = rng.integers(3, side - 10, 2)
        top, left = (
            rng.integers(5, side - 4 - height),
            rng.integers(5, side - 4 - width),
        )  # 5 pixels of its color around
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        if rng.random() < 0.5:
            down, across = (2 * y + 1 - 2 * top - height) / height, (2 * x + 1 - 2 * left - width) / width
            inside &= down**2 + across**2 <= 1
        masks.append(torch.zeros(SIDE, SIDE, dtype=torch.uint8))
        masks[-1][rows, columns] = torch.from_numpy(inside).byte()
    kept = sorted(rng.choice(CELLS**2, rng.integers(1, CELLS**2 + 1), replace=False).tolist())
    masks = torch.stack(masks)[kept]
    boxes = torch.tensor(np.array([box_seen(mask) for mask in masks]), dtype=torch.float32)
    return colors.expand(3, SIDE, SIDE), {"boxes": boxes, "labels": torch.tensor(kept) + first, "masks": masks}


def drawn_batch(seed, n=3):
    """``n`` images of drawn objects, and one for a bank."""
    rng = np.random.default_rng(seed)
    images, targets = zip(*(drawn_image(rng, 1 + CELLS**2 * k) for k in range(n + 1)), strict=True)
    return (torch.stack(images[:n]), list(targets[:n])), (images[n][None], [targets[n]])


def box_seen(seen):
    """The smallest box (x1, y1, x2, y2) around the pixels that are seen."""
    rows, columns = np.flatnonzero(seen.any(dim=1).numpy()), np.flatnonzero(seen.any(dim=0).numpy())
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def told_labels(fields):
    """The label of each pixel by the masks, 0 where there is none; checks that boxes fit and masks share no pixel."""
    masks = fields["masks"].dense() if isinstance(fields["masks"], CompactMasks) else fields["masks"]
    told = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    for mask, label, box in zip(masks != 0, fields["labels"].tolist(), fields["boxes"].tolist(), strict=True):
        assert mask.any()
        assert not told[mask].any()
        assert box == box_seen(mask)
        told[mask] = label
    return told


def assert_labels_are_what_is_seen(told, before, after, former, *, all_kept):
    """The labels of pixels against the colors of an image before and after, and the labels that it had before."""
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], after[2])
    seen, was = after[0].long(), before[0].long()
    assert torch.equal(seen[told > 0], color_of(told[told > 0]))
    if all_kept:  # else what is dropped from the target stays in the image
        assert torch.equal(seen[told == 0], was[told == 0])
        assert not ((former > 0) & (told == 0) & (seen == was)).any()


def assert_truth(seed, knobs, *, engine=nullcontext, compact=False, with_bank=False):
    """Paste, and compare each target with what its image shows."""
    (images, targets), (earlier, earlier_targets) = drawn_batch(seed)
    former = [told_labels(fields) for fields in targets]
    if compact:
        convert = CompactMasks.from_dense
        targets = [fields | {"masks": convert(fields["masks"])} for fields in targets]
        earlier_targets = [fields | {"masks": convert(fields["masks"])} for fields in earlier_targets]
    bank = InstanceBank(10) if with_bank and knobs["source"] != "self" else None
    generator = torch.Generator().manual_seed(seed)
    with engine():
        if bank is not None:
            copypaste_batch(earlier, earlier_targets, bank=bank, p=0.0)
        after, found = copypaste_batch(images, targets, generator=generator, bank=bank, **knobs)
    for before, image, fields, own in zip(images, after, found, former, strict=True):
        assert_labels_are_what_is_seen(told_labels(fields), before, image, own, all_kept=not knobs["min_visibility"])


@many(40)
@given(settings(), SEEDS, st.booleans(), st.booleans(), st.sampled_from([nullcontext, window_after_window]))
def test_masks_and_boxes_are_what_is_seen_with_every_setting_of_places_and_jitter(
    knobs, seed, compact, with_bank, engine
):
    assert_truth(seed, knobs, engine=engine, compact=compact, with_bank=with_bank)


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning:triton")  # its interpreter
@many(3)
@given(settings(), SEEDS, st.booleans())
def test_masks_and_boxes_are_what_is_seen_with_tritons_kernels(knobs, seed, compact):
    assert_truth(seed, knobs, engine=tritons_kernels, compact=compact)


@many(15)
@given(settings(), SEEDS, st.sampled_from([nullcontext, window_after_window]))
def test_class_ids_are_what_is_seen(knobs, seed, engine):
    (images, targets), _ = drawn_batch(seed)
    maps = torch.stack([told_labels(fields) for fields in targets])
    generator, labels = torch.Generator().manual_seed(seed), tuple(range(1, 17))  # background is not copied
    knobs = {name: value for name, value in knobs.items() if name != "min_visibility"}
    with engine():
        after, found = copypaste_batch(images, maps, generator=generator, labels=labels, **knobs)
    for before, image, told, own in zip(images, after, found, maps, strict=True):
        assert_labels_are_what_is_seen(told, before, image, own, all_kept=True)


@pytest.mark.parametrize("wrong", ["a pixel too many", "a pixel too few", "a box too large"])
def test_this_test_sees_what_is_wrong(wrong):
    (images, targets), _ = drawn_batch(0)
    before, fields = images[0], targets[0]
    told = told_labels(fields)
    assert_labels_are_what_is_seen(told, before, before, told, all_kept=True)
    mask = fields["masks"][0]
    y, x = (int(place[0]) for place in torch.nonzero(mask, as_tuple=True))
    changed = mask.clone()
    if wrong == "a pixel too many":
        changed[SIDE - 1, SIDE - 1] = changed[0, SIDE - 1] = 1
    elif wrong == "a pixel too few":
        changed[y, x] = 0
    else:
        fields["boxes"][0, 2] += 1
    fields["masks"] = torch.cat([changed[None], fields["masks"][1:]])
    fields["boxes"][0] = torch.tensor(box_seen(changed)) if wrong != "a box too large" else fields["boxes"][0]
    with pytest.raises(AssertionError):
        assert_labels_are_what_is_seen(told_labels(fields), before, before, told, all_kept=True)
