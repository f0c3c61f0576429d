"""Copy-paste on a GPU equals that on a CPU, and waits for the device only to read back."""

import warnings

import pytest
import torch
from copypaste_cases import EVERYTHING, in_another_form, noise_batch
from read_backs import modules_that_read_back
from torchvision import tv_tensors

from composer_copypaste import InstanceBank, copypaste_batch, large_scale_jitter_batch, plan_batch
from composer_copypaste.functional import tensors
from composer_copypaste.functional.object_keys import KEYPOINT_FIELDS
from composer_copypaste.models.inputs import check_targets

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


DEVICE = "cuda"
SETTINGS = {
    "plain": {},
    "soft": {"blend_sigma": 2.0},
    "everything": EVERYTHING,
    "partly visible": {"min_visibility": 0.7, "jitter": "instance", "placement": "anywhere"},
    "eroded and partly visible": {"min_visibility": 0.3, "rotation": 30.0, "erosion": 1, "p_flip_vertical": 0.5},
}
EACH_SETTING = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def with_keypoints(dtype):
    """The batch with two keypoints for each object, their scores and their number."""
    images, targets = noise_batch(dtype)
    keypoints = torch.tensor([[[4.25, 5.5, 2], [12.5, 13.75, 1]], [[18.0, 12.25, 2], [0, 0, 0]]])
    told = {"keypoints_scores": torch.tensor([[0.25, 0.5], [0.75, 0]]), "num_keypoints": torch.tensor([2, 1])}
    return images, [{**target, "keypoints": keypoints, **told} for target in targets]


def on_gpu(dtype, given=noise_batch, keeping=("boxes", "labels")):
    """The batch as ``CopyPaste`` passes it on: boxes and labels stay on the host."""
    images, targets = given(dtype)
    return images.to(DEVICE), [
        {key: values if key in keeping else values.to(DEVICE) for key, values in target.items()} for target in targets
    ]


def options(**settings):
    seeded = torch.Generator().manual_seed(1)
    return {"p": 1.0, "p_instance": 1.0, "generator": seeded, "keypoint_pairs": ((0, 1),), **settings}


def pasted(given, **settings):
    """The batch with objects of its own and of a bank that has seen it."""
    bank = InstanceBank(8)
    copypaste_batch(*given, bank=bank, **options(**settings))
    return copypaste_batch(*given, bank=bank, **options(**settings))


def assert_equal_but_for_rounding(found, expected):
    (images, targets), (wanted, truths) = found, expected
    assert images.device.type == DEVICE
    assert images.dtype == wanted.dtype
    step = 1 if images.dtype == torch.uint8 else max(1e-5, 4 * torch.finfo(images.dtype).eps)
    assert (images.cpu().double() - wanted.double()).abs().max() <= step
    for target, truth in zip(targets, truths, strict=True):
        assert all(torch.equal(target[name].cpu(), truth[name]) for name in truth if name != "keypoints")
        if "keypoints" in truth:  # sums of products, which a GPU may round once where a CPU does twice
            assert torch.allclose(target["keypoints"].cpu(), truth["keypoints"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@EACH_SETTING
def test_it_gives_what_a_cpu_gives(dtype, settings):
    plans = [plan_batch(*given, **options(**settings)) for given in (on_gpu(dtype), noise_batch(dtype))]
    assert plans[0].to_json() == plans[1].to_json()
    assert_equal_but_for_rounding(pasted(on_gpu(dtype), **settings), pasted(noise_batch(dtype), **settings))


@pytest.mark.parametrize("keeping", [(), ("boxes", "labels"), ("boxes", "labels", *KEYPOINT_FIELDS)])
@EACH_SETTING
def test_keypoints_and_what_tells_of_them_come_as_on_a_cpu(settings, keeping):
    found = pasted(on_gpu(torch.uint8, with_keypoints, keeping), **settings)
    assert_equal_but_for_rounding(found, pasted(with_keypoints(torch.uint8), **settings))


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@EACH_SETTING
def test_autocast_changes_nothing(settings, lower):
    expected = pasted(noise_batch(torch.float16), **settings)
    with torch.autocast("cuda", lower):
        found = pasted(on_gpu(torch.float16), **settings)
    assert_equal_but_for_rounding(found, expected)


def waiting(function):
    """The function with waiting allowed inside it."""

    def allowed(numbers):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return function(numbers)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    return allowed


@pytest.fixture
def _errors_where_it_waits(monkeypatch):
    allowed = waiting(tensors.read_back)
    for module in modules_that_read_back():
        monkeypatch.setattr(module, "read_back", allowed)
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_errors_where_it_waits")
@EACH_SETTING
@pytest.mark.parametrize("batch_of", [noise_batch, with_keypoints], ids=["boxes and masks", "keypoints"])
def test_nothing_but_the_read_back_waits_for_the_device(settings, batch_of):
    given = on_gpu(torch.uint8, batch_of)
    torch.cuda.set_sync_debug_mode("error")
    pasted(given, **settings)


def class_maps_on(device):
    """Three images of noise, each with two classes."""
    images = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(3, 32, 48, dtype=torch.int64)
    for number, ids in enumerate(maps, start=1):
        ids[4 * number : 16, 6:30], ids[20:28, number : 9 * number] = number, 7
    return images.to(device), maps.to(device)


def test_class_ids_become_what_they_become_on_a_cpu():
    (images, maps), (wanted, truths) = (
        copypaste_batch(*class_maps_on(device), **options(keypoint_pairs=None)) for device in ("cuda", "cpu")
    )
    assert torch.equal(maps.cpu(), truths)
    assert (images.cpu().int() - wanted.int()).abs().max() <= 1


@pytest.mark.usefixtures("_errors_where_it_waits")
def test_nothing_but_the_read_back_of_class_ids_waits_for_the_device():
    given = class_maps_on("cuda")
    torch.cuda.set_sync_debug_mode("error")
    copypaste_batch(*given, **options(keypoint_pairs=None))


@pytest.mark.usefixtures("_errors_where_it_waits")
def test_nothing_but_the_read_back_of_large_scale_jitter_waits_for_the_device():
    images, targets = on_gpu(torch.uint8, with_keypoints)
    torch.cuda.set_sync_debug_mode("error")
    large_scale_jitter_batch(
        images, targets, size=(40, 24), generator=torch.Generator().manual_seed(1), keypoint_pairs=()
    )


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
def test_large_scale_jitter_gives_what_a_cpu_gives(masks):
    kept = {"boxes", "labels", "keypoints", *KEYPOINT_FIELDS} | ({"masks"} if masks else set())
    (found, expected) = (
        large_scale_jitter_batch(
            images,
            [{key: values for key, values in target.items() if key in kept} for target in targets],
            size=(40, 24),
            generator=torch.Generator().manual_seed(1),
            keypoint_pairs=((0, 1),),
        )
        for images, targets in (on_gpu(torch.uint8, with_keypoints), with_keypoints(torch.uint8))
    )
    assert_equal_but_for_rounding(found, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
def test_targets_of_mask_r_cnn_are_checked_with_one_wait(dtype):
    images, targets = on_gpu(torch.float32, keeping=())
    targets = [{**target, "masks": target["masks"].to(dtype)} for target in targets]
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            check_targets(images, targets, num_classes=3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchronizing" in str(wait.message)]) == 1


@pytest.mark.usefixtures("_errors_where_it_waits")
def test_nothing_but_the_read_back_waits_where_types_and_formats_are_changed():
    given = in_another_form("cuda")
    torch.cuda.set_sync_debug_mode("error")
    pasted(given)
    copypaste_batch(*given, p=0.0)
    large_scale_jitter_batch(*given, size=(400, 400), generator=torch.Generator().manual_seed(1))


def test_types_and_formats_come_back_as_on_a_cpu():
    (images, targets), (wanted, truths) = (
        pasted(in_another_form(device), jitter="instance") for device in ("cuda", "cpu")
    )
    assert type(images) is tv_tensors.Image
    assert torch.equal(images.cpu(), wanted)
    for target, truth in zip(targets, truths, strict=True):
        assert all(type(target[name]) is type(truth[name]) for name in truth)
        assert all(torch.equal(target[name].cpu(), truth[name]) for name in truth)
