"""Which objects are copied: 8 x 8 pixels, whose answer is visible."""

from contextlib import nullcontext

import pytest
import torch
from copypaste_cases import Pool, make_images, target

from composer_copypaste.functional.copypaste import copypaste_batch, plan_batch

ALL_IN_PLACE = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}
GIVEN = target((0, 0, 2, 2), (3, 0, 6, 3), (0, 4, 4, 8), labels=[1, 2, 3])  # of 4, 9 and 16 pixels of the image's 64


def received(given=GIVEN, **settings):
    """The labels of what an empty image receives, all that may be copied, where it lies in its source."""
    generator = torch.Generator().manual_seed(0)
    _, after = copypaste_batch(make_images(), [target(), given], generator=generator, **{**ALL_IN_PLACE, **settings})
    return after[0]["labels"].tolist()


def test_everything_is_copied_where_nothing_is_excluded():
    assert received() == [1, 2, 3]


def test_to_name_all_labels_changes_no_chance():
    assert received(labels=(1, 2, 3), p_instance=0.5) == received(p_instance=0.5) == [1, 2]


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"area_range": (4.0, 9.0)}, [1, 2]),
        ({"area_range": (5.0, 100.0)}, [2, 3]),
        ({"area_range": (10.0, 15.0)}, []),
        ({"relative_area_range": (0.25, 1.0)}, [3]),
        ({"relative_area_range": (0.0, 0.2)}, [1, 2]),
        ({"area_range": (5.0, 100.0), "relative_area_range": (0.0, 0.2)}, [2]),
    ],
)
@pytest.mark.filterwarnings("ignore:copy-paste changed nothing")
def test_only_objects_of_an_area_in_the_range_are_copied(settings, labels):
    assert received(**settings) == labels


@pytest.mark.parametrize("pixels", [7, 14, 28, 29, 55, 56, 57, 58])
@pytest.mark.parametrize(("low", "high", "copied"), [(0.0, 1.0, 1), (0.0, 0.0, 1), (0.001, 1.0, 0), (-1.0, -0.001, 0)])
@pytest.mark.parametrize("pooled", [False, True], ids=["batch", "pool"])
@pytest.mark.filterwarnings("ignore:copy-paste changed nothing")
def test_an_area_that_is_exactly_a_bound_is_in_the_range(pixels, low, high, copied, pooled):
    part = pixels / 100
    settings = {**ALL_IN_PLACE, "relative_area_range": (max(0.0, part + low), min(1.0, part + high))}
    images, masks = torch.zeros(2, 3, 1, 100, dtype=torch.uint8), torch.zeros(1, 1, 100, dtype=torch.uint8)
    masks[..., :pixels] = 1
    given = {"boxes": torch.tensor([[0.0, 0, pixels, 1]]), "labels": torch.tensor([3]), "masks": masks}
    empty = {key: values[:0] for key, values in given.items()}
    if not pooled:
        assert len(plan_batch(images, [empty, given], **settings)) == copied
        return
    with nullcontext() if copied else pytest.raises(ValueError, match="may be copied"):
        plan_batch(images, [empty, empty], pool=Pool((3, images[0], masks[0])), p_pool=1.0, **settings)


def test_a_label_of_weight_0_is_never_copied():
    assert received(label_weights={2: 0.0}) == [1, 3]
    assert received(label_weights={2: 0.0}, p_instance=None, max_copied_instances=3).count(2) == 0


def test_a_label_of_a_large_weight_comes_first():
    drawn = [
        copypaste_batch(
            make_images(),
            [target(), GIVEN],
            generator=torch.Generator().manual_seed(seed),
            **{**ALL_IN_PLACE, "p_instance": None, "label_weights": {2: 1e6}, "max_copied_instances": 1},
        )[1][0]["labels"].tolist()
        for seed in range(20)
    ]
    assert {tuple(labels) for labels in drawn} == {(), (2,)}  # m of the K objects: none, or one and that is label 2


def test_categories_and_their_weights_hold_together():
    assert received(labels=(1, 2), label_weights={1: 0.0, 3: 5.0}) == [2]
