"""No waiting for the device but at the read-back: on torch's meta device, whatever needs a pixel's value fails.

The host needs boxes, labels and iscrowd, to draw the plan, and then the areas and areas_and_boxes that are read back.
"""

from unittest import mock

import pytest
import torch
from copypaste_cases import (
    FITTING,
    ON_HOST,
    SIDE,
    Case,
    block,
    cases,
    in_another_form,
    make_images,
    many,
    noise_batch,
    on_meta,
    paste_seeded,
    target,
    window_after_window,
)
from hypothesis import given
from hypothesis import strategies as st
from read_backs import ReadBacks
from torchvision import tv_tensors

from composer_copypaste.functional import semantic_maps
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.batch_objects import asks_for_areas
from composer_copypaste.functional.copypaste import copypaste_batch
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch
from composer_copypaste.functional.plan import PastePlan


def pasted_on_meta(case, keeping):
    """The batch pasted on the CPU, then on the meta device with what the CPU read back, and where it asked for that."""
    read_backs = ReadBacks()
    banks = [case.bank(), case.bank()]  # the batch joins each
    with window_after_window(), read_backs.recorded():
        expected = paste_seeded(case.images, case.targets, case.settings, case.seed, banks[0], case.pool)
    images = case.images.to("meta") if isinstance(case.images, torch.Tensor) else [i.to("meta") for i in case.images]
    with read_backs.replayed():
        targets = on_meta(case.targets, keeping)
        result = paste_seeded(images, targets, case.settings, case.seed, banks[1], case.pool)
    return expected, result, read_backs.asked


@many(20)
@given(cases(counts=st.integers(0, 5), bank=True))
def test_nothing_but_the_read_back_needs_a_value_from_the_device(case):
    expected, result, _ = pasted_on_meta(case, keeping=())
    for there, here in zip(result.images, expected.images, strict=True):
        assert (there.device.type, there.shape, there.dtype) == ("meta", here.shape, here.dtype)
    for there, here in zip(result.targets, expected.targets, strict=True):
        assert {key: values.shape for key, values in there.items()} == {key: v.shape for key, v in here.items()}
        assert {values.device.type for values in there.values()} == {"meta"}


@pytest.mark.parametrize("settings", FITTING)
def test_colors_that_fit_need_no_value_from_the_device(settings):
    case = Case(*noise_batch(torch.uint8), {"p": 1.0} | settings, seed=0)
    _, result, asked = pasted_on_meta(case, keeping=ON_HOST)
    assert result.images.device.type == "meta"
    assert asked.count("meta") == 1


@many(10)
@given(cases(counts=st.integers(0, 5), bank=True, p=1.0, p_instance=1.0, labels=None, overlap_by="box"))
def test_the_device_is_read_once_when_boxes_and_labels_are_on_the_host(case):
    _, _, asked = pasted_on_meta(case, keeping=ON_HOST)
    counts = asks_for_areas(case.settings) and "area" not in case.targets[0]  # the pixels of masks, before the plan
    assert asked.count("meta") <= 1 + counts


def test_areas_on_the_host_and_those_counted_on_the_device_are_read_together():
    targets, read_backs = [target((0, 0, 4, 4), area=torch.ones(1)), target((0, 0, 4, 4))], ReadBacks()
    settings = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0, "area_range": (0.0, 99.0)}
    with window_after_window(), read_backs.recorded():
        copypaste_batch(make_images(), targets, **settings)
    with read_backs.replayed():
        copypaste_batch(make_images().to("meta"), on_meta(targets, keeping=ON_HOST), **settings)
    assert read_backs.asked.count("meta") == 2  # before the plan, and what is visible after it


def test_class_maps_are_read_twice_however_many_they_are():
    maps = torch.zeros(5, SIDE, SIDE, dtype=torch.int64)
    maps[:, 2:5, 1:6] = torch.arange(1, 6)[:, None, None]
    given, read_backs = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0)}, ReadBacks()
    with mock.patch.object(semantic_maps, "_on_host", return_value=False), read_backs.recorded():
        copypaste_batch(make_images(5), maps, **given)
    with read_backs.replayed():
        images, after = copypaste_batch(make_images(5).to("meta"), maps.to("meta"), **given)
    assert read_backs.asked == ["meta", "meta"]
    assert (images.device.type, after.device.type, after.shape) == ("meta", "meta", maps.shape)


def test_with_p_0_the_device_is_not_asked_at_all():
    images, maps = make_images(2).to("meta"), torch.zeros(2, SIDE, SIDE, dtype=torch.int64, device="meta")
    assert copypaste_batch(images, maps, p=0.0) == (images, maps)


def test_types_and_formats_are_changed_without_a_value_from_the_device():
    plan, read_backs = PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 0)))]), ReadBacks()
    with window_after_window(), read_backs.recorded():
        copypaste_batch(*in_another_form("cpu"), plan=plan)
        large_scale_jitter_batch(*in_another_form("cpu"), size=(400, 400), generator=torch.Generator().manual_seed(0))
    with read_backs.replayed():
        _, after = copypaste_batch(*in_another_form("meta"), plan=plan)
        size = {"size": (400, 400), "generator": torch.Generator().manual_seed(0)}
        _, framed = large_scale_jitter_batch(*in_another_form("meta"), **size)
    for fields in after + framed:
        assert {values.device.type for values in fields.values()} == {"meta"}
        assert (fields["boxes"].dtype, fields["boxes"].format.name) == (torch.float32, "XYWH")
        assert fields["area"].dtype == torch.float32


def test_with_p_0_no_value_of_targets_is_needed():
    _, after = copypaste_batch(*in_another_form("meta"), p=0.0)
    assert all(type(fields["masks"]) is tv_tensors.Mask for fields in after)
    targets = on_meta([target((0, 0, 4, 4)) | {"masks": torch.ones(1, SIDE, SIDE, dtype=torch.bool)}], keeping=())
    _, (after,) = copypaste_batch(make_images(1).to("meta"), targets, p=0.0)
    assert after["masks"].dtype == torch.bool
    masks = torch.stack([block(0, 0, 4, 4), block(4, 4, 8, 8)])
    targets = on_meta([target((0, 0, 4, 4), (4, 4, 8, 8)) | {"masks": 255 * masks}], keeping=("masks",))
    _, (after,) = copypaste_batch(make_images(1), targets, p=0.0)
    assert torch.equal(after["masks"], masks)


def test_what_a_bank_remembers_moves_to_the_device_of_the_batch():
    bank, square = InstanceBank(4), target((0, 0, 4, 4))
    copypaste_batch(make_images(1), [square], bank=bank, p=0.0)
    copypaste_batch(make_images(1).to("meta"), on_meta([square], keeping=ON_HOST), bank=bank, p=0.0)
    pixels = [values for image in bank.images for values in (*image.crops, *image.masks)]
    assert [values.device.type for values in pixels] == ["meta"] * 4


def test_the_read_back_itself_does_need_the_device():
    with pytest.raises(ValueError, match="on the meta device, which holds none"):
        copypaste_batch(
            make_images().to("meta"),
            on_meta([target((0, 0, SIDE, SIDE))] * 2, keeping=ON_HOST),
            p=1.0,
            p_instance=1.0,
            scale_range=(1.0, 1.0),
        )
