"""Copy-paste beside mixed precision: images keep their type, and autocast, which is for models, changes nothing."""

import pytest
import torch
from copypaste_cases import EVERYTHING, noise_batch

from composer_copypaste import InstanceBank, copypaste_batch, large_scale_jitter_batch

TYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]


def pasted(dtype, **settings):
    images, targets = noise_batch(dtype)
    bank = InstanceBank(4)
    generator = torch.Generator().manual_seed(1)
    options = {"p": 1.0, "p_instance": 1.0, "bank": bank, "generator": generator, **settings}
    first = copypaste_batch(images, targets, **options)
    return [first, copypaste_batch(images[:1], targets[:1], **options)]  # from the bank


def jittered(dtype):
    generator = torch.Generator().manual_seed(1)
    return [large_scale_jitter_batch(*noise_batch(dtype), size=(40, 24), generator=generator)]


def assert_equal(found, expected):
    for (images, targets), (wanted, truths) in zip(found, expected, strict=True):
        assert torch.equal(images, wanted)
        for target, truth in zip(targets, truths, strict=True):
            assert all(
                torch.equal(target[name], truth[name]) and target[name].dtype == truth[name].dtype for name in truth
            )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("settings", [{}, {"blend_sigma": 2.0}, EVERYTHING], ids=["plain", "soft", "everything"])
def test_images_keep_their_type_and_targets_theirs(dtype, settings):
    original, (truth, *_) = noise_batch(dtype)
    found = pasted(dtype, **settings)
    assert {images.dtype for images, _ in found} == {dtype}
    assert not torch.equal(found[0][0], original)
    assert all(t["boxes"].dtype == torch.float32 and t["masks"].dtype == truth["masks"].dtype for t in found[0][1])
    assert jittered(dtype)[0][0].dtype == dtype


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("settings", [{}, {"blend_sigma": 2.0}, EVERYTHING], ids=["plain", "soft", "everything"])
def test_within_an_autocast_region_the_same_is_pasted(dtype, settings, lower):
    expected = pasted(dtype, **settings)
    with torch.autocast("cpu", lower):
        assert_equal(pasted(dtype, **settings), expected)
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", TYPES)
def test_within_an_autocast_region_images_are_jittered_alike(dtype, lower):
    expected = jittered(dtype)
    with torch.autocast("cpu", lower):
        assert_equal(jittered(dtype), expected)
