"""A transform of one's own for each pasted object: on 8 x 8 pixels, and with torchvision's."""

import pickle
import random
from contextlib import nullcontext

import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    Case,
    Pool,
    block,
    carry_out,
    make_images,
    noise_batch,
    paste_seeded,
    plan_of,
    target,
    tritons_kernels,
    window_after_window,
    with_plane_masks,
)
from torchvision import tv_tensors
from torchvision.transforms import v2

from composer_copypaste import CopyPasteSettings, InstanceBank, copypaste_batch
from composer_copypaste.errors import DataError
from composer_copypaste.functional.copypaste import plan_batch
from composer_copypaste.functional.plan import PastePlan

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning:triton")  # its interpreter

HERE = (2, 3, 6, 5)


def after(transform, rectangle=HERE, to_source=IDENTITY, **settings):
    """Image 0 and its target after image 1's object was pasted on it."""
    given = plan_of((0, 1, 0, to_source)), make_images(), [target(), target(rectangle)]
    result = carry_out(*given, object_transform=transform, **settings)
    return result.images[0, 0], result.targets[0]


def inverted(image, alpha):
    return 255 - image, alpha


def without_left_half(image, alpha):
    alpha[:, :, : alpha.shape[2] // 2] = 0
    return image, alpha


def shifted_right(image, alpha):
    return image.roll(1, -1), alpha.roll(1, -1)


def test_the_colors_of_what_is_pasted_change_and_no_others():
    image, fields = after(inverted)
    plain, same = after(lambda image, alpha: (image, alpha))
    changed = block(*HERE).bool()
    assert (image[changed] == 255 - plain[changed]).all()
    assert (image[~changed] == plain[~changed]).all()
    assert (plain[changed] == make_images()[1, 0][changed]).all()
    torch.testing.assert_close(fields, same)
    assert torch.equal(fields["masks"][0], block(*HERE))


def test_what_becomes_transparent_is_no_object():
    image, fields = after(without_left_half)
    assert torch.equal(fields["masks"][0], block(4, 3, 6, 5))
    assert fields["boxes"].tolist() == [[4, 3, 6, 5]]
    assert torch.equal(image != make_images()[0, 0], block(4, 3, 6, 5).bool())


def test_what_moves_within_the_cut_out_moves_in_the_image():
    image, fields = after(shifted_right)
    assert torch.equal(fields["masks"][0], block(3, 3, 7, 5))
    assert image[3].tolist() == [30, 31, 32, 132, 133, 134, 135, 37]


def test_an_alpha_of_127_is_no_object_and_one_of_128_is():
    def steps(image, alpha):
        alpha[:, :, :3], alpha[:, :, 3:] = 127, 128
        return image, alpha

    _, fields = after(steps)  # the window begins one pixel beside the box
    assert fields["boxes"].tolist() == [[4, 2, 7, 6]]


@pytest.mark.parametrize(("transform", "box"), [(v2.Pad(2), HERE), (v2.Resize((8, 12)), (0, 2, 8, 6))])
def test_a_cut_out_of_another_size_keeps_its_middle(transform, box):
    assert after(transform)[1]["boxes"].tolist() == [list(box)]


def test_it_is_resized_flipped_and_moved_afterwards():
    doubled = ((0.5, 0, 0), (0, 0.5, 0))
    _, fields = after(without_left_half, (1, 1, 3, 3), doubled)
    assert fields["boxes"].tolist() == [[4, 2, 6, 6]]
    mirrored = ((-1, 0, 8), (0, 1, 0))
    _, fields = after(without_left_half, HERE, mirrored)
    assert fields["boxes"].tolist() == [[2, 3, 4, 5]]


def test_an_object_that_becomes_transparent_is_dropped():
    image, fields = after(lambda image, alpha: (image, torch.zeros_like(alpha)))
    assert len(fields["labels"]) == 0
    assert torch.equal(image, make_images()[0, 0])


TORCHVISIONS = {
    "colors": v2.ColorJitter(0.9, 0.9, 0.9, 0.4),
    "blur": v2.GaussianBlur(3),
    "perspective": v2.RandomPerspective(p=1.0),
    "rotation": v2.RandomRotation(40, expand=True),
    "elastic": v2.ElasticTransform(alpha=20.0, sigma=1.0),
    "several": v2.Compose([v2.RandomHorizontalFlip(), v2.RandomPosterize(2), v2.RandomAffine(10, scale=(0.5, 1.5))]),
}


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_torchvisions_transforms_give_the_same_on_all_engines_and_in_both_forms(name):
    images, targets = noise_batch(torch.uint8)
    case = Case(images, targets, {"p": 1.0, "object_transform": TORCHVISIONS[name]}, seed=0)
    numba, cut_outs = case.paste(), case.with_compact_masks().paste()
    with window_after_window():
        torchs = case.paste()
    with tritons_kernels():
        tritons = case.paste()
    for other in (torchs, tritons, cut_outs):
        torch.testing.assert_close(with_plane_masks(other.targets), list(numba.targets), rtol=0, atol=0)
        torch.testing.assert_close(other.images.float(), numba.images.float(), rtol=0, atol=1)
    plain = paste_seeded(images, targets, CopyPasteSettings(p=1.0))
    assert not torch.equal(plain.images, numba.images)


def test_masks_are_exactly_what_is_seen_after_a_transform_that_moves_pixels():
    images = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    images[1, :, 2:6, 1:7] = 0  # the object is black, and all else is white
    transform = v2.RandomAffine(40, translate=(0.2, 0.2), fill={tv_tensors.Image: 255, tv_tensors.Mask: 0})
    settings = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "object_transform": transform}
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        shown, found = copypaste_batch(images, [target(), target((1, 2, 7, 6))], generator=generator, **settings)
        assert torch.equal(shown[0, 0] == 0, found[0]["masks"].any(0) != 0)
        assert found[0]["masks"].any()


def test_a_plan_repeats_the_transforms_random_numbers_and_leaves_torchs_as_they_were():
    images, targets = noise_batch(torch.uint8)
    settings = {"p": 1.0, "object_transform": v2.ColorJitter(0.9, 0.9, 0.9)}
    plan = plan_batch(images, targets, generator=torch.Generator().manual_seed(3), **settings)
    assert len(plan.seed.unique()) == len(plan) > 1
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = copypaste_batch(images, targets, plan=plan, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again, _ = copypaste_batch(images, targets, plan=PastePlan.from_json(plan.to_json()), **settings)
    drawn, _ = copypaste_batch(images, targets, generator=torch.Generator().manual_seed(3), **settings)
    assert torch.equal(first, again)
    assert torch.equal(first, drawn)


def test_after_an_error_in_a_transform_torchs_random_numbers_go_on():
    def fails(image, alpha):
        torch.rand(1)
        raise ArithmeticError

    state = torch.get_rng_state()
    with pytest.raises(ArithmeticError):
        after(fails)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transform_sees_the_box_and_a_pixel_around_it_and_an_alpha_of_0_and_255():
    given = []
    after(lambda image, alpha: given.append((image, alpha)) or (image, alpha))
    ((image, alpha),) = given
    assert torch.equal(image, make_images()[1, :, 2:6, 1:7])
    assert torch.equal(alpha, 255 * block(*HERE)[None, 2:6, 1:7])


def test_of_an_object_beside_its_image_a_transform_sees_one_pixel_and_nothing_is_pasted():
    sizes = []
    beside = target((12, 2, 14, 4))
    plan, settings = plan_of((0, 1, 0, IDENTITY)), {"object_transform": lambda *it: sizes.append(it[1].shape) or it}
    result = carry_out(plan, make_images(), [target(), beside], **settings)
    assert sizes == [(1, 1, 1)]
    assert torch.equal(result.images, make_images())


@pytest.mark.parametrize("engine", [nullcontext, window_after_window, tritons_kernels])
def test_the_order_in_memory_of_what_a_transform_returns_does_not_matter(engine):
    def turned(image, alpha):
        return image.flip(-1).mT.contiguous().mT, alpha.flip(-1).mT.contiguous().mT

    with engine():
        found = after(turned, (1, 1, 3, 3))[0], after(v2.RandomHorizontalFlip(p=1.0), (1, 1, 3, 3))[0]
    assert torch.equal(*found)


def test_keypoints_lie_where_they_did_and_move_with_the_cut_out():
    keypoints = torch.tensor([[[2.0, 3, 2], [5.5, 4.5, 1]]])
    given = [target(keypoints=torch.zeros(0, 2, 3)), target(HERE, keypoints=keypoints)]
    plan = plan_of((0, 1, 0, ((1, 0, -1), (0, 1, 1))))
    result = carry_out(plan, make_images(), given, object_transform=inverted, keypoint_pairs=())
    assert result.targets[0]["keypoints"].tolist() == [[[3, 2, 2], [6.5, 3.5, 1]]]


def test_objects_of_bank_and_pool_and_of_class_id_maps_are_transformed_too():
    bank = InstanceBank(1)
    images, targets = make_images(), [target(), target(HERE)]
    copypaste_batch(images[1:], targets[1:], bank=bank, p=0.0)
    plan = plan_of((0, 1, 0, ((1, 0, -1), (0, 1, -2))))
    result = carry_out(plan, images[:1], targets[:1], bank=bank, object_transform=without_left_half)
    assert result.targets[0]["boxes"].tolist() == [[4, 3, 6, 5]]
    pool = Pool((5, torch.full((3, 4, 4), 9).byte(), torch.ones(4, 4).byte()))
    result = carry_out(
        plan_of((0, 1, 0, IDENTITY)), images[:1], targets[:1], pool=pool, object_transform=without_left_half
    )
    assert (result.targets[0]["boxes"].tolist(), result.targets[0]["labels"].tolist()) == ([[2, 0, 4, 4]], [5])
    maps = torch.zeros(2, 8, 8, dtype=torch.int64)
    maps[1, 3:5, 2:6] = 7
    result = carry_out(plan_of((0, 1, 1, IDENTITY)), images, maps, object_transform=without_left_half)
    assert torch.equal(result.targets[0], 7 * block(4, 3, 6, 5).long())


def test_what_comes_back_says_where_an_object_was_before_it_was_transformed():
    images, targets = make_images(), [target(), target((0, 0, 2, 2), HERE)]
    *_, info = copypaste_batch(
        images, targets, plan=plan_of((0, 1, 1, IDENTITY)), object_transform=inverted, return_info=True
    )
    assert (info.source.tolist(), info.instance.tolist()) == ([1, 1, 1], [1, 0, 1])


def test_the_batch_itself_is_not_modified_by_a_transform_in_place():
    def black(image, alpha):
        return image.zero_(), alpha.fill_(255)

    images, targets = make_images(), [target(), target(HERE)]
    copypaste_batch(images, targets, plan=plan_of((0, 1, 0, IDENTITY)), object_transform=black)
    assert torch.equal(images, make_images())
    assert torch.equal(targets[1]["masks"][0], block(*HERE))


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        (lambda image, alpha: image, r"expected it to return \(image, alpha\), got Image"),
        (lambda image, alpha: image[:2], r"expected it to return \(image, alpha\), got Tensor"),
        (lambda image, alpha: (image, alpha, alpha), r"expected it to return \(image, alpha\), got tuple"),
        (lambda image, alpha: (image, 255), r"expected it to return \(image, alpha\), got tuple"),
        (
            lambda image, alpha: (image.float(), alpha),
            "expected an image of 3 channels of torch.uint8 on cpu, got .*float32",
        ),
        (lambda image, alpha: (image[:1], alpha), "expected an image of 3 channels of .* on cpu, got .1, 4, 6."),
        (lambda image, alpha: (image, alpha[:, 1:]), r"expected an alpha of torch.uint8 of shape \(1, 4, 6\)"),
        (lambda image, alpha: (image, alpha / 2), "expected an alpha of torch.uint8 of shape .*float32"),
        (
            lambda image, alpha: (image[:, :0], alpha[:, :0]),
            r"expected an alpha .* of at least one pixel, got \(1, 0, 6\)",
        ),
    ],
)
def test_what_is_no_image_and_alpha_is_an_error_of_one_line(transform, problem):
    with pytest.raises((TypeError, ValueError), match=f"^object_transform: {problem}"):
        after(transform)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("not a place", "expected a function of an image and an alpha, or where .*, got 'not a place'"),
        (3, "expected a function .*, got 3"),
        (v2.ColorJitter, "expected a function .*, got <class"),
    ],
)
def test_what_is_no_transform_is_an_error_that_says_what_is(given, problem):
    with pytest.raises(ValueError, match=f"^object_transform: {problem}"):
        CopyPasteSettings(object_transform=given)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("no_such_module:f", "no_such_module cannot be imported: No module named 'no_such_module'"),
        ("math:nothing", "math:nothing: expected a function .*, got none of that name"),
        ("math:pi", "math:pi: expected a function .*, got 3.14"),
        ("torchvision.transforms.v2:ColorJitter", "torchvision.*: expected a function .*, got <class"),
    ],
)
def test_a_place_where_no_transform_is_found_is_an_error_before_anything_is_pasted(place, problem):
    with pytest.raises(DataError, match=f"^object_transform: {problem}"):
        copypaste_batch(make_images(), [target(), target(HERE)], p=0.0, object_transform=place)


def test_a_place_in_the_current_folder_is_found(tmp_path, monkeypatch):
    name = f"transforms_{random.getrandbits(40)}"
    (tmp_path / f"{name}.py").write_text("def dark(image, alpha):\n    return image // 2, alpha\n")
    monkeypatch.chdir(tmp_path)
    image, _ = after(f"{name}:dark")
    assert (image[block(*HERE).bool()] == make_images()[1, 0][block(*HERE).bool()] // 2).all()
    again = pickle.loads(pickle.dumps(CopyPasteSettings(object_transform=f"{name}:dark")))
    assert again == CopyPasteSettings(object_transform=f"{name}:dark")


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"geometry": {"obb": "corners"}}, "geometry"), ({"blend_mode": "poisson"}, "object_transform")],
)
def test_settings_that_a_transform_would_break_are_an_error(settings, named):
    with pytest.raises(ValueError, match=f"^{named}: expected None with "):
        CopyPasteSettings(object_transform=inverted, **settings)
