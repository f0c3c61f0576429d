"""Where objects come from: other images of the batch, the image itself, or both."""

import numpy as np
import pytest
import torch
from copypaste_cases import Pool, block, make_images, target

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.copypaste import NothingPastedWarning, copypaste_batch, plan_batch
from composer_copypaste.settings import AugmentSettings, CopyPasteSettings, OfflineCopyPasteSettings

ALL = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}
"""Settings with which every object is copied as it is."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sources(n_images, source, draws=200, **further):
    """How often an image's object comes from which source, relative to the image, in plans of many seeds."""
    targets = [target((0, 0, 2, 2))] * n_images
    counts = np.zeros(n_images, dtype=int)
    for seed in range(draws):
        plan = plan_batch(make_images(n_images), targets, generator=seeded(seed), source=source, **ALL | further)
        np.add.at(counts, (plan.source - plan.target).numpy() % n_images, 1)
    return counts / draws


def test_a_batch_of_one_image_receives_mirrored_copies_of_its_own_objects():
    images, (after,) = copypaste_batch(make_images(1), [target((0, 0, 2, 3))], source="self", **ALL | {"p_flip": 1.0})
    assert after["boxes"].tolist() == [[0, 0, 2, 3], [6, 0, 8, 3]]
    assert after["labels"].tolist() == [1, 1]
    assert images[0, 0, 1].tolist() == [10, 11, 12, 13, 14, 15, 11, 10]


def test_near_its_original_a_copy_lies_beside_it_where_it_must_not_overlap():
    settings = ALL | {"source": "self", "placement": "near", "max_shift": 1.0, "max_overlap": 0.0}
    found = set()
    for seed in range(30):
        _, (after,) = copypaste_batch(
            make_images(1), [target((3, 3, 5, 5))], generator=seeded(seed), placement_tries=200, **settings
        )
        (x1, y1, x2, y2) = after["boxes"][1].tolist()
        assert max(abs(x1 - 3), abs(y1 - 3)) == 2
        assert (x2 - x1, y2 - y1) == (2, 2)
        found.add((x1, y1))
    assert len(found) > 6


def test_of_an_object_in_the_middle_the_mirrored_copy_hides_its_original():
    _, (after,) = copypaste_batch(make_images(1), [target((3, 0, 5, 3))], source="self", **ALL | {"p_flip": 1.0})
    assert after["boxes"].tolist() == [[3, 0, 5, 3]]
    assert after["masks"].sum() == 6


def test_a_moved_copy_is_painted_from_the_image_as_it_was_before_anything_was_pasted():
    """The first copy lies on the second object, which is copied with its own colors all the same."""
    own = target((0, 0, 2, 2), (6, 0, 8, 2))
    images, _ = copypaste_batch(make_images(1), [own], source="self", **ALL | {"p_flip": 1.0})
    assert images[0, 0, 0].tolist() == [7, 6, 2, 3, 4, 5, 1, 0]


@pytest.mark.parametrize("jitter", ["image", "instance"])
def test_a_copy_exactly_on_its_original_is_left_out(jitter):
    targets = [target((0, 0, 2, 2)), target((4, 4, 8, 8))]
    for seed in range(10):
        plan = plan_batch(make_images(), targets, generator=seeded(seed), source="both", jitter=jitter, **ALL)
        assert (plan.source != plan.target).all()


def test_self_and_both_take_an_images_own_objects_as_often_as_they_say():
    assert sources(4, "self", p_flip=1.0).tolist() == [4, 0, 0, 0]
    assert np.abs(sources(4, "both", p_flip=1.0) - 1).max() < 0.15
    assert sources(4, "batch", p_flip=1.0)[0] == 0
    assert np.abs(sources(4, "batch", p_flip=1.0)[1:] - 4 / 3).max() < 0.2


def test_both_takes_the_banks_images_too_and_self_does_not():
    bank = InstanceBank(9)
    copypaste_batch(make_images(3), [target((0, 0, 2, 2))] * 3, bank=bank, p=0.0)
    found = set()
    for seed in range(40):
        settings = ALL | {"source": "both", "p_flip": 1.0, "generator": seeded(seed)}
        found |= set(plan_batch(make_images(1), [target((0, 0, 2, 2))], bank=bank, **settings).source.tolist())
    assert found == {0, 1, 2, 3}
    with pytest.raises(ValueError, match=r'^bank: expected None with source "self", which copies no object of earlier'):
        copypaste_batch(make_images(1), [target((0, 0, 2, 2))], bank=bank, source="self")


def test_beside_a_pool_p_pool_says_how_often_an_image_is_its_own_source():
    pool = Pool((5, torch.zeros(3, 4, 4, dtype=torch.uint8), block(1, 1, 3, 3, (4, 4))))
    settings = ALL | {"source": "self", "p_flip": 1.0, "p_pool": 0.25, "pool_instances": (1, 1), "pool": pool}
    targets = [target((0, 0, 2, 2))]
    plans = [plan_batch(make_images(1), targets, generator=seeded(seed), **settings) for seed in range(200)]
    drawn = [plan.source.tolist() for plan in plans]
    assert {tuple(each) for each in drawn} == {(0,), (1,)}
    assert 0.15 < np.mean(drawn) < 0.35


def test_class_id_maps_copy_their_own_classes():
    maps = torch.zeros(1, 8, 8, dtype=torch.int64)
    maps[0, 0:3, 0:2] = 4
    _, after = copypaste_batch(make_images(1), maps, source="self", **ALL | {"p_flip": 1.0})
    assert after[0, 1].tolist() == [4, 4, 0, 0, 0, 0, 4, 4]


def test_in_a_training_that_jitters_images_they_are_still_mirrored_within_themselves():
    for source, p_flip in (("batch", 0.0), ("self", None), ("both", None)):
        assert CopyPasteSettings(source=source).after_jitter().p_flip == p_flip


def test_without_an_object_to_copy_an_image_says_so():
    with pytest.warns(NothingPastedWarning, match=r"none of the batch's 1 object may be copied"):
        copypaste_batch(make_images(1), [target((0, 0, 2, 2))], source="self", labels=(7,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ALL, 'source: with "self" every copy would lie exactly on its original; set p_flip, scale_range, rotation'),
        ({"bank_size": 4}, 'bank_size: expected 0 with source "self", which copies no object of earlier'),
        ({"source": "others"}, "source: expected one of 'batch', 'self', 'both', got 'others'"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        CopyPasteSettings(**{"source": "self", **settings})


def test_backgrounds_have_no_objects_of_their_own(tmp_path):
    with pytest.raises(ValueError, match=r'^copy_paste.source: expected "batch" or "both" with backgrounds'):
        AugmentSettings(backgrounds=tmp_path, copy_paste=OfflineCopyPasteSettings(source="self"))
