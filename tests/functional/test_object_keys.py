"""Which keys of targets follow their objects: decided by name, the same for every batch and on every way."""

import warnings

import pytest
import torch
from copypaste_cases import IDENTITY, Pool, carry_out, make_images, plan_of, target
from torchvision import tv_tensors

from composer_copypaste import InstanceBank, copypaste_batch, large_scale_jitter_batch
from composer_copypaste.functional.object_keys import warn_once

JITTER = {"size": (16, 16), "scale_range": (1.0, 1.0)}
PASTE = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0)}


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    warn_once.cache_clear()
    yield
    warn_once.cache_clear()


def seeded():
    return torch.Generator().manual_seed(0)


def bank():
    """One that remembers an object."""
    remembering = InstanceBank(4)
    copypaste_batch(make_images(1), [target((0, 0, 4, 4), camera=torch.tensor([5]))], bank=remembering, p=0.0)
    return remembering


def pool():
    return Pool((1, torch.zeros(3, 2, 2, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.uint8)))


WAYS = {
    "plain": lambda targets, **settings: copypaste_batch(
        make_images(len(targets)), targets, generator=seeded(), **PASTE, **settings
    ),
    "bank": lambda targets, **settings: copypaste_batch(
        make_images(len(targets)), targets, generator=seeded(), bank=bank(), **PASTE, **settings
    ),
    "pool": lambda targets, **settings: copypaste_batch(
        make_images(len(targets)), targets, generator=seeded(), pool=pool(), **PASTE, **settings
    ),
    "jitter": lambda targets, **settings: large_scale_jitter_batch(
        make_images(len(targets)), targets, generator=seeded(), **JITTER, **settings
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("camera", [torch.tensor([7]), torch.tensor(7), torch.arange(3), "left", None, [7]])
def test_what_is_named_nowhere_passes_through_whatever_its_length(way, camera):
    targets = [target((0, 0, 4, 4), camera=camera), target((4, 4, 8, 8), camera=camera)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, after = WAYS[way](targets)
    assert all(found["camera"] is camera for found in after)


@pytest.mark.parametrize("first", WAYS)
def test_it_is_said_once_that_what_passes_through_has_as_many_rows_as_there_are_objects(first):
    targets = [target((0, 0, 4, 4), depth=torch.ones(1)), target((4, 4, 8, 8), (0, 0, 2, 2), depth=torch.ones(2))]
    with pytest.warns(UserWarning, match=r"'depth' has as many rows .* name it in object_keys"):
        WAYS[first](targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for way in WAYS.values():
            way(targets)


@pytest.mark.parametrize(
    ("depths", "plan"),
    [
        ((torch.ones(1), torch.ones(1)), plan_of((0, 1, 0, IDENTITY))),
        ((torch.ones(1), torch.ones(2)), plan_of()),
        (((1,), (1, 2)), plan_of((0, 1, 0, IDENTITY))),
        ((torch.tensor(1.0), torch.tensor(2.0)), plan_of((0, 1, 0, IDENTITY))),
    ],
    ids=["another length somewhere", "nothing pasted", "tuples", "numbers"],
)
def test_it_is_not_said_where_rows_are_not_as_many_or_nothing_is_pasted(depths, plan):
    targets = [target((0, 0, 4, 4), depth=depths[0]), target((4, 4, 8, 8), (0, 0, 2, 2), depth=depths[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        carry_out(plan, make_images(), targets)


@pytest.mark.parametrize(("key", "settings"), [("scores", {}), ("id", {}), ("depth", {"object_keys": ("depth",)})])
def test_known_and_named_keys_follow_their_objects(key, settings):
    own, given = target((0, 0, 1, 1), (5, 5, 8, 8)), target((7, 0, 8, 1), (0, 0, 2, 2))
    own[key], given[key] = torch.tensor([10, 11]), torch.tensor([20, 21])
    after = carry_out(plan_of((0, 1, 1, IDENTITY)), make_images(), [own, given], **settings).targets[0]
    assert after[key].tolist() == [11, 21]
    shown = large_scale_jitter_batch(make_images(), [own, given], **JITTER, min_area=5, **settings)[1][0]
    assert shown[key].tolist() == [10, 11][len(own["labels"]) - len(shown["labels"]) :]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("key", "settings"), [("scores", {}), ("depth", {"object_keys": ("depth",)})])
def test_such_a_key_of_a_wrong_length_is_an_error_every_time(way, key, settings):
    targets = [target((0, 0, 4, 4)), target((4, 4, 8, 8), (0, 0, 2, 2))]
    for fields in targets:
        fields[key] = torch.ones(1)
    with pytest.raises(
        ValueError, match=rf"^targets\[1\]: expected '{key}' to have a row for each of its 2 objects, got shape \(1,\)$"
    ):
        WAYS[way](targets, **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_named_key_that_no_object_has_is_an_error(way):
    targets, named = [target((0, 0, 4, 4), depth=torch.ones(1))] * 2, {"object_keys": ("dept",)}
    message = r"^targets: expected 'dept', which object_keys names, got objects without it; give it in every target, or"
    with pytest.raises(ValueError, match=message):
        WAYS[way](targets, **named)
    WAYS[way]([{key: values[:0] for key, values in targets[0].items()}] * 2, **named)  # nothing to miss it
    WAYS["plain"](targets, object_keys=("depth", "area"))  # a field of its own


@pytest.mark.parametrize("way", WAYS)
def test_such_a_key_that_is_no_tensor_is_an_error(way):
    with pytest.raises(TypeError, match=r"^targets\[0\]: expected 'scores' to be a tensor, got list$"):
        WAYS[way]([target((0, 0, 4, 4), scores=[0.5])] * 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", ["obb", "rotated_boxes", "segmentation", "polygons", "points", "bbox", "sem_seg"])
def test_positions_that_would_have_to_move_are_refused_by_name(way, key):
    targets = [target((0, 0, 4, 4)), target((4, 4, 8, 8))]
    targets[1][key] = torch.zeros(1, 5)
    with pytest.raises(ValueError, match=rf"^targets\[1\]: '{key}' holds positions .* name it in object_keys"):
        WAYS[way](targets)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("key", "value"), [("segmentation", None), ("image_size", torch.zeros(1, 4)), ("id", 7), ("score", "high")]
)
def test_nothing_sizes_of_the_image_and_single_values_pass_under_their_names(way, key, value):
    targets = [target((0, 0, 4, 4), **{key: value}), target((4, 4, 8, 8), **{key: value})]
    assert all(found[key] is value for found in WAYS[way](targets)[1])


def test_positions_in_a_type_of_torchvisions_are_refused_under_any_name():
    heads = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(8, 8))
    with pytest.raises(ValueError, match=r"^targets\[0\]: 'heads' holds positions in the image"):
        copypaste_batch(make_images(), [target((0, 0, 4, 4), heads=heads)] * 2, p=1.0)


def test_such_names_may_be_named_where_they_hold_no_positions():
    own, given = target((0, 0, 1, 1), points=torch.tensor([3])), target((4, 4, 8, 8), points=torch.tensor([9]))
    plan = plan_of((0, 1, 0, IDENTITY))
    after = carry_out(plan, make_images(), [own, given], object_keys=("points",)).targets[0]
    assert after["points"].tolist() == [3, 9]


def test_where_nothing_would_be_copied_nothing_is_refused():
    targets = [target((0, 0, 4, 4), obb=torch.zeros(1, 5))] * 2
    assert copypaste_batch(make_images(), targets, p=0.0)[1] == targets
