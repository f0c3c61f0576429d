"""Class-id maps: hand-written plans on 8 x 8 pixels, whose answer is visible."""

import pytest
import torch
from copypaste_cases import IDENTITY, SIDE, block, carry_out, make_images, many, plan_of
from hypothesis import given
from hypothesis import strategies as st

from composer_copypaste.functional.copypaste import NothingPastedWarning, copypaste_batch

EVERYTHING = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}


def classes(background, *painted):
    """A map of class ids: (id, x1, y1, x2, y2), later ones on top."""
    ids = torch.full((SIDE, SIDE), background)
    for id_, *corners in painted:
        ids[block(*corners).bool()] = id_
    return ids


def pasted(targets, **settings):
    return copypaste_batch(make_images(len(targets)), targets, generator=torch.Generator().manual_seed(0), **settings)


def test_a_class_brings_its_id_and_its_colors():
    targets = torch.stack([classes(0), classes(0, (3, 2, 2, 5, 5))])
    images, after = pasted(targets, **EVERYTHING)
    here = block(2, 2, 5, 5).bool()
    assert torch.equal(after[0], targets[1])
    assert torch.equal(images[0], torch.where(here, make_images()[1], make_images()[0]))


def test_the_background_is_never_copied_whatever_its_id():
    targets = torch.stack([classes(5, (1, 0, 0, 8, 8)), classes(5, (0, 2, 2, 5, 5))])
    _, after = pasted(targets, background=5, **EVERYTHING)
    assert torch.equal(after[0], classes(1, (0, 2, 2, 5, 5)))
    assert torch.equal(after[1], torch.ones(SIDE, SIDE).long())


def test_unlabelled_pixels_are_never_copied():
    targets = torch.stack([classes(0), classes(255, (3, 2, 2, 5, 5))])
    _, after = pasted(targets, **EVERYTHING)
    assert torch.equal(after[0], classes(0, (3, 2, 2, 5, 5)))


@pytest.mark.parametrize("pair", [False, True], ids=["class ids", "panoptic pairs"])
def test_a_negative_class_is_an_error_unless_it_is_the_ignored_one_or_none_is(pair):
    maps = torch.stack([classes(0), classes(0, (-100, 2, 2, 5, 5))])
    targets = [{"class_map": own, "instance_map": (own != 0).long()} for own in maps] if pair else maps
    with pytest.raises(
        ValueError, match=r"^targets\[1\]: expected class ids of 0 or more, got -100; ignore_index=-100"
    ):
        pasted(targets, **EVERYTHING)
    with pytest.warns(NothingPastedWarning):
        pasted(targets, ignore_index=-100, **EVERYTHING)
    _, after = pasted(targets, ignore_index=None, **EVERYTHING)
    assert torch.equal(after[0]["class_map"] if pair else after[0], maps[1])


def test_without_an_ignore_index_every_class_may_be_copied():
    targets = torch.stack([classes(0), classes(0, (255, 2, 2, 5, 5))])
    _, after = pasted(targets, ignore_index=None, **EVERYTHING)
    assert torch.equal(after[0], targets[1])


def test_only_the_chosen_classes_are_copied():
    targets = torch.stack([classes(0), classes(0, (3, 0, 0, 2, 2), (4, 4, 4, 6, 6))])
    _, after = pasted(targets, labels=(4,), **EVERYTHING)
    assert torch.equal(after[0], classes(0, (4, 4, 4, 6, 6)))


def test_the_class_pasted_last_lies_on_top():
    targets = torch.stack([classes(0), classes(0, (3, 0, 0, 2, 2)), classes(0, (4, 0, 0, 2, 1))])
    plan = plan_of((0, 1, 1, IDENTITY), (0, 2, 1, IDENTITY))
    after = carry_out(plan, make_images(3), targets).targets
    assert torch.equal(after[0], classes(0, (3, 0, 0, 2, 2), (4, 0, 0, 2, 1)))


def test_a_class_may_be_put_anywhere_in_a_map_wider_than_high():
    maps = torch.zeros((2, 4, 8), dtype=torch.int64)
    maps[1, 1:3, 6:8] = 5
    reached = torch.zeros(8, dtype=torch.bool)
    for seed in range(60):
        settings = EVERYTHING | {"placement": "random", "generator": torch.Generator().manual_seed(seed)}
        _, after = copypaste_batch(make_images()[:, :, :4], maps, **settings)
        assert (after[0] == 5).sum() == 4
        reached |= (after[0] == 5).any(dim=0)
    assert reached.all()


def test_pieces_of_one_class_are_one_object():
    targets = torch.stack([classes(0), classes(0, (3, 0, 0, 1, 1), (3, 7, 7, 8, 8))])
    result = carry_out(plan_of((0, 1, 1, IDENTITY)), make_images(), targets)
    assert torch.equal(result.targets[0], targets[1])
    assert sum(result.added) == 1


def test_blending_does_not_widen_a_class():
    targets = torch.stack([classes(0), classes(0, (3, 2, 2, 5, 5))])
    _, after = pasted(targets, blend_sigma=2.0, **EVERYTHING)
    assert torch.equal(after[0], targets[1])


IDS = (3, -3, 254, 256, 40_000, -(2**31))
TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@pytest.mark.parametrize(
    ("dtype", "class_id"),
    [(dtype, own) for dtype in TYPES for own in IDS if torch.iinfo(dtype).min <= own <= torch.iinfo(dtype).max],
)
def test_class_ids_keep_their_type_and_value(dtype, class_id):
    targets = torch.stack([classes(0), classes(0, (class_id, 2, 2, 5, 5))]).to(dtype)
    _, after = pasted(targets, ignore_index=None, **EVERYTHING)
    assert after.dtype == dtype
    assert torch.equal(after[0], targets[1])


@many(40)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 20))
def test_drawn_maps_receive_ids_exactly_where_their_images_receive_colors(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 4, (3, height, width), generator=generator)
    images = (targets[:, None] * 60).to(torch.uint8)  # the color says the class
    before = targets.clone()
    images, after = copypaste_batch(
        images, targets, generator=generator, p=1.0, scale_range=(1.0, 1.0), jitter="instance", placement="random"
    )
    assert torch.equal(images[:, 0], (after * 60).to(torch.uint8))
    assert torch.equal(targets, before)


def test_maps_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8\), the size of images\[0\], got \(2, 4, 8\)"):
        copypaste_batch(list(make_images()), torch.zeros(2, 4, 8).long())


def test_maps_of_background_alone_are_warned_about():
    with pytest.warns(NothingPastedWarning, match="none of the batch's 2 objects may be copied"):
        pasted(torch.zeros(2, SIDE, SIDE).long(), p=1.0)


def test_maps_that_receive_nothing_are_not_even_copied():
    targets = torch.stack([classes(0), classes(0, (3, 2, 2, 5, 5))])
    _, after = pasted(targets, p=0.0)
    assert after is targets
