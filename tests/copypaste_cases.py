"""Batches for the tests of copy-paste: hand-made ones of 8 x 8 pixels, and drawn ones."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest import mock

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import Phase
from hypothesis import strategies as st
from reference import box_around, numpy
from torchvision import tv_tensors

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional import copypaste as batch
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.engines import engine
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.sources import ExtraSources
from composer_copypaste.settings import CopyPasteSettings
from composer_copypaste.settings.idle import SCENE

SIDE = 8
IDENTITY = ((1, 0, 0), (0, 1, 0))


# Hand-made: the answer is visible


def make_images(n=2):
    """Pixel (x, y) of image i is 100 i + 10 y + x, in each of three channels."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return torch.stack([(100 * i + 10 * y + x).expand(3, SIDE, SIDE) for i in range(n)]).to(torch.uint8)


def block(x1, y1, x2, y2, size=(SIDE, SIDE)):
    """The mask of a rectangle."""
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


def target(*rectangles, labels=None, **fields):
    """A target whose objects are rectangles (x1, y1, x2, y2)."""
    n = len(rectangles)
    return {
        "boxes": torch.tensor(rectangles, dtype=torch.float32).reshape(n, 4),
        "labels": torch.tensor(labels or range(1, n + 1), dtype=torch.int64),
        "masks": torch.stack([block(*corners) for corners in rectangles]) if n else torch.zeros(0, SIDE, SIDE).byte(),
        **fields,
    }


def plan_of(*rows):
    """A plan from rows (target, source, instance, map); the map leads from target pixels to source pixels."""
    return PastePlan.from_rows(rows)


def carry_out(plan, images, targets, *, bank=None, pool=None, **settings):
    """The batch after a hand-written plan."""
    return batch.paste(images, targets, CopyPasteSettings(**settings), plan, ExtraSources(bank, pool))


def paste_seeded(images, targets, settings, seed=0, bank=None, pool=None):
    """The batch after the plan that a seed draws."""
    return batch.paste(images, targets, settings, torch.Generator().manual_seed(seed), ExtraSources(bank, pool))


class Pool:
    """Cut-outs in memory: of each its label, an image and a mask."""

    def __init__(self, *cut_outs):
        self.labels = np.array([label for label, _, _ in cut_outs])
        self.boxes = np.array([box_around(numpy(mask)) for *_, mask in cut_outs], dtype=np.float64)
        self.image_pixels = np.array([mask.numel() for *_, mask in cut_outs])
        self.cut_outs = cut_outs

    def read(self, number):
        return self.cut_outs[number][1:]


def plain(values):
    """Tensors, and lists and dicts of them, as bytes and shapes that can be compared."""
    if isinstance(values, torch.Tensor):
        return values.dtype, tuple(values.shape), values.detach().double().tolist()
    if isinstance(values, dict):
        return {key: plain(value) for key, value in values.items()}
    return [plain(value) for value in values]


@contextmanager
def window_after_window():
    """The CPU does what a device does for which there are no kernels."""
    with mock.patch.object(engine, "kernels_for", return_value=None):
        yield


@contextmanager
def tritons_kernels():
    """Triton's kernels run on any device, as on a GPU; on a CPU in Triton's interpreter."""
    pytest.importorskip("triton")
    from composer_copypaste.functional.engines import triton_engine

    with mock.patch.object(engine, "kernels_for", lambda device: triton_engine.TritonKernels(device)):
        yield


ON_HOST = ("boxes", "labels", "iscrowd", "area", "image_id")


def on_meta(dicts, keeping):
    """Targets on torch's meta device, but for the keys that stay on the host."""
    return [
        {key: values if key in keeping else values.to("meta") for key, values in fields.items()} for fields in dicts
    ]


def in_another_form(device, side=300):
    """Boxes of torchvision's, in a format and types that have to be changed, and masks of 0 and 255."""
    masks = torch.zeros(1, side, side, dtype=torch.uint8)
    masks[:, 20:40, 10:280] = 255
    boxes = tv_tensors.BoundingBoxes([[10, 20, 255, 20]], format="XYWH", canvas_size=(side, side), dtype=torch.uint8)
    fields = {"boxes": boxes, "labels": torch.ones(1).long(), "masks": tv_tensors.Mask(masks)}
    fields |= {"area": torch.ones(1, dtype=torch.float16)}
    images = tv_tensors.Image(torch.zeros(3, 3, side, side))
    return images.to(device), [{key: values.to(device) for key, values in fields.items()} for _ in range(3)]


EVERYTHING = {
    "jitter": "instance",
    "rotation": 30.0,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "erosion": 1,
}
"""Settings that move, turn, recolor and erode all that is pasted."""


FITTING = [
    {"color_transfer": "reinhard", "transfer_strength": (0.0, 1.0)},
    {"color_transfer": "histogram"},
    {"blend_mode": "poisson"},
]
"""Settings with which the colors of what is pasted depend on those around it."""


def noise_batch(dtype):
    """Four images of 32 pixels of noise, each with two objects."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    masks = torch.stack([block(2, 3, 14, 15, (32, 32)), block(16, 10, 30, 29, (32, 32))])
    boxes = torch.tensor([[2.0, 3.0, 14.0, 15.0], [16.0, 10.0, 30.0, 29.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks} for _ in images]
    return (images if dtype == torch.uint8 else (images.float() / 255).to(dtype)), targets


def corners_in_target(plan, row, box):
    """The corners of a box of the source, in the target."""
    to_source = plan.to_source[row].numpy()
    corners = np.array([[x, y] for x in box[::2] for y in box[1::2]])
    return np.linalg.solve(to_source[:, :2], (corners - to_source[:, 2]).T).T


# Drawn


def many(examples):
    """The same examples in every run; most of a batch comes from one seed, so there is little to shrink."""
    return hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        report_multiple_bugs=False,
    )


SEEDS = st.integers(0, 2**40)


@dataclass
class Case:
    images: object = field(repr=False)
    targets: list = field(repr=False)
    knobs: dict
    seed: int
    earlier: tuple = field(default=(), repr=False)  # images and targets of a batch that a bank has seen
    bank_size: int = 0  # the most objects that the bank holds
    pool: Pool | None = field(default=None, repr=False)

    @property
    def settings(self):
        return CopyPasteSettings(**self.knobs)

    def paste(self):
        return paste_seeded(self.images, self.targets, self.settings, self.seed, self.bank(), self.pool)

    def with_compact_masks(self):
        """The same batches with masks as cut-outs, in windows that fit or are wider."""
        earlier = (self.earlier[0], compact_targets(self.earlier[1], self.seed)) if self.earlier else ()
        return replace(self, targets=compact_targets(self.targets, self.seed), earlier=earlier)

    def bank(self):
        """A bank that has seen the earlier batch, if there was one."""
        if not self.earlier:
            return None
        bank = InstanceBank(self.bank_size)
        batch.paste(*self.earlier, self.settings, PastePlan.from_rows([]), ExtraSources(bank))
        return bank


def compact_targets(targets, seed):
    """The targets with masks, if they have any, as cut-outs."""
    if "masks" not in targets[0]:
        return targets
    return [
        fields | {"masks": compact_masks(plane_masks(fields["masks"]), np.random.default_rng((seed, i)))}
        for i, fields in enumerate(targets)
    ]


def compact_masks(masks, rng):
    """Cut-outs whose windows are up to two pixels wider than they must be."""
    tight = CompactMasks.from_dense(masks)
    wider = tight.windows + rng.integers(0, 3, (len(tight), 4)) * [-1, -1, 1, 1]
    return tight.in_windows(np.clip(wider, 0, np.tile(tight.size, 2)))


def plane_masks(masks):
    """Masks of either form as a plain tensor."""
    return masks.dense() if isinstance(masks, CompactMasks) else torch.as_tensor(masks)


def with_plane_masks(targets):
    """Targets whose masks are uint8 planes, whatever they were; others stay."""
    return [
        fields | {"masks": plane_masks(fields["masks"]).byte()} if "masks" in fields else fields for fields in targets
    ]


DTYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
SCALES = [(0.1, 2.0), (1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.8, 1.25), (3.0, 10.0), (0.02, 0.1)]
CROSS = [[(0.4, 0.0), (0.6, 0.0), (0.6, 1.0), (0.4, 1.0)], [(0.0, 0.7), (1.0, 0.4), (1.0, 0.6), (0.0, 0.9)]]
SCENES = [{}, {}, {}]
"""Settings of what an image shows where; most often none."""
SCENES += [
    {"place_region": CROSS, "place_map": [[0, 1, 2], [1, 0, 3]], "place_point": "bottom"},
    {"vanishing_line": 0.3, "place_point": "bottom"},
    {"scale_map": [[1, 0, 2, 4]], "place_map": [[1], [3]]},
]
COLORS_STAY = {"color_transfer": None, "transfer_strength": 0.5, "blend_mode": "alpha"}
TRANSFERS = [{}, {}, {"color_transfer": "reinhard"}, {"color_transfer": "reinhard", "transfer_strength": (0.0, 1.0)}]
MASK_TYPES = (torch.uint8, torch.bool, "uint8 of any value")
LAYOUTS = ("contiguous", "channels last", "every other pixel", "transposed")


@st.composite
def knobs(draw, **fixed):
    """Arguments of CopyPasteSettings."""
    drawn = {
        "p": draw(st.sampled_from([1.0, 1.0, 0.5])),
        "max_copied_instances": draw(st.sampled_from([None, None, 1, 3])),
        "p_instance": draw(st.sampled_from([None, 1.0, 0.5])),
        "source": draw(st.sampled_from(["batch", "batch", "self", "both"])),
        "jitter": draw(st.sampled_from(["image", "instance"])),
        "scale_range": draw(st.sampled_from(SCALES)),
        "p_flip": draw(st.sampled_from([0.5, 0.0, 1.0])),
        "rotation": draw(st.sampled_from([0.0, 0.0, 20.0, 180.0])),
        "placement": draw(st.sampled_from(["source", "near", "random", "anywhere"])),
        "max_overlap": draw(st.sampled_from([1.0, 1.0, 0.3])),
        "overlap_by": draw(st.sampled_from(["box", "mask"])),
        "least_overlap_first": draw(st.sampled_from([False, False, True])),
        **draw(st.sampled_from(SCENES)),
        "scale_distribution": draw(st.sampled_from(["uniform", "log_uniform"])),
        "aspect_range": draw(st.sampled_from([(1.0, 1.0), (0.5, 3.0)])),
        "p_flip_vertical": draw(st.sampled_from([0.0, 0.5])),
        "erosion": draw(st.sampled_from([0, 0, 1, 3])),
        "brightness": draw(st.sampled_from([0.0, 0.0, 0.8])),
        "contrast": draw(st.sampled_from([0.0, 0.5])),
        "saturation": draw(st.sampled_from([0.0, 1.0])),
        "blend_sigma": draw(st.sampled_from([0.0, 0.0, 0.4, 1.5, (0.0, 2.0)])),
        **draw(st.sampled_from(TRANSFERS)),
        "min_visibility": draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        "min_area": draw(st.sampled_from([1, 1, 6])),
        "labels": draw(st.sampled_from([None, None, (1, 2)])),
        "label_weights": draw(st.sampled_from([None, None, {1: 0.0, 2: 7.5}])),
        "p_pool": draw(st.sampled_from([0.5, 1.0])),
        "pool_instances": draw(st.sampled_from([(1, 5), (3, 3)])),
        "pool_scale_range": draw(st.sampled_from(SCALES)),
        "area_range": draw(st.sampled_from([None, None, (4.0, 400.0)])),
        "relative_area_range": draw(st.sampled_from([None, None, (0.01, 0.5)])),
        "keypoint_pairs": draw(st.sampled_from([(), ((0, 1),)])),
    }
    combined = {**drawn, **fixed}
    if combined["source"] == "self" and combined["p_flip"] == 0:
        combined["p_flip"] = 1.0  # else there are settings with which every copy lies on its original
    if combined["placement"] in ("source", "near"):
        combined |= dict.fromkeys(SCENE) | {"place_point": "centre"}
    if combined["max_overlap"] == 1 and not combined["least_overlap_first"]:
        combined["overlap_by"] = "box"
    if combined["scale_range"][0] == combined["scale_range"][1]:
        combined["scale_distribution"] = "uniform"
    return combined


@st.composite
def cases(draw, sides=None, counts=None, masks=True, bank=False, dtypes=DTYPES, **fixed):
    """A batch of any allowed form, with settings and a seed, and perhaps a bank that has seen another, and a pool."""
    sides = st.one_of(st.integers(1, 12), st.integers(1, 64)) if sides is None else sides
    counts = st.one_of(st.integers(0, 4), st.integers(0, 30)) if counts is None else counts
    n, as_list = draw(st.integers(1, 4)), draw(st.booleans())
    sizes = [draw(st.tuples(sides, sides)) for _ in range(n)] if as_list else [draw(st.tuples(sides, sides))] * n
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype, layout = draw(st.sampled_from(dtypes)), draw(st.sampled_from(LAYOUTS))
    channels = draw(st.sampled_from([3, 1, 4]))
    images = [colored(size, channels, dtype, rng) for size in sizes]
    if as_list:
        images = [laid_out(image[None], layout)[0] for image in images]
    else:
        images = laid_out(torch.stack(images), layout)
    if dtype.is_floating_point and draw(st.booleans()):
        images = [image.requires_grad_() for image in images] if as_list else images.requires_grad_()
    mask_type, keys = draw(st.sampled_from(MASK_TYPES)), draw(st.sets(st.sampled_from(OPTIONAL_KEYS)))
    targets = [drawn_target(size, draw(counts), mask_type, keys, rng, masks) for size in sizes]
    case = Case(images, targets, draw(knobs(**fixed)), draw(st.integers(0, 2**31)))
    case.knobs["object_keys"] = ("depth",) if "depth" in keys else ()
    if channels != 3 and case.knobs.get("color_transfer") == "reinhard":
        case.knobs |= COLORS_STAY
    if bank and draw(st.booleans()):
        sizes = [draw(st.tuples(sides, sides)) for _ in range(draw(st.integers(1, 3)))]
        case.earlier = (
            [colored(size, channels, dtype, rng) for size in sizes],
            [drawn_target(size, draw(counts), mask_type, keys, rng, masks) for size in sizes],
        )
        case.bank_size = draw(st.sampled_from([1, 3, 50]))
    if bank and channels == 3 and "depth" not in keys and draw(st.booleans()):
        case.pool = drawn_pool(draw(st.integers(1, 5)), rng)
        case.knobs["labels"] = case.knobs["area_range"] = case.knobs["relative_area_range"] = None
    else:
        case.knobs = {name: value for name, value in case.knobs.items() if "pool" not in name}
    return case


def drawn_pool(n, rng):
    cut_outs = []
    for _ in range(n):
        size = tuple(rng.integers(1, 40, 2).tolist())
        mask = torch.from_numpy(rng.random(size) < 0.6).to(torch.uint8)
        mask[0, 0] = 1
        cut_outs.append((int(rng.integers(2, 4)), colored(size, 3, torch.uint8, rng), mask))
    return Pool(*cut_outs)


OPTIONAL_KEYS = ("area", "iscrowd", "image_id", "depth", "keypoints")


def colored(size, channels, dtype, rng):
    colors = torch.from_numpy(rng.integers(0, 256, (channels, *size), dtype=np.uint8))
    return colors if dtype == torch.uint8 else (colors / 255).to(dtype)


def laid_out(images, layout):
    """The same images (n, c, h, w), otherwise in memory."""
    if layout == "channels last":
        return images.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return images.mT.contiguous().mT
    if layout == "every other pixel":
        return images.repeat_interleave(2, dim=3)[..., ::2]
    return images


def drawn_target(size, n, mask_type, keys, rng, has_masks):
    masks = np.array([drawn_mask(size, rng) for _ in range(n)], dtype=bool).reshape(n, *size)
    fields = {
        "boxes": torch.from_numpy(np.array([drawn_box(mask, rng) for mask in masks], dtype=np.float32).reshape(n, 4)),
        "labels": torch.from_numpy(rng.integers(1, 4, n)),
        "masks": typed_masks(masks, mask_type, rng),
        "area": torch.from_numpy(rng.uniform(0, 100, n).astype(np.float32)),
        "iscrowd": torch.from_numpy((rng.random(n) < 0.15).astype(np.int64)),
        "image_id": torch.tensor(int(rng.integers(1000))),
        "depth": torch.from_numpy(rng.normal(size=(n, 2))),
        "keypoints": torch.from_numpy(drawn_keypoints(size, n, rng)),
    }
    kept = set(keys) | {"boxes", "labels"} | ({"masks"} if has_masks else set())
    return {key: values for key, values in fields.items() if key in kept}


def typed_masks(masks, mask_type, rng):
    if mask_type == "uint8 of any value":
        return torch.from_numpy(masks * rng.integers(1, 256, masks.shape, dtype=np.uint8))
    return torch.from_numpy(masks).to(mask_type)


def drawn_mask(size, rng):
    """Nothing, all (in images of up to 64 pixels), a rectangle, or a rectangle with holes."""
    kind = rng.choice(["nothing", "all", "rectangle", "holes"], p=[0.1, 0.1, 0.3, 0.5])
    mask = np.zeros(size, dtype=bool)
    if kind != "nothing":
        (y1, y2), (x1, x2) = ((0, min(side, 64)) if kind == "all" else drawn_span(side, rng) for side in size)
        mask[y1:y2, x1:x2] = True if kind != "holes" else rng.random((y2 - y1, x2 - x1)) < 0.6
    return mask


def drawn_span(side, rng):
    start = rng.integers(0, side + 1)
    return start, min(side, start + rng.integers(0, 65))


def drawn_box(mask, rng):
    """Around the mask: tight, or as annotated ones are, a little larger or smaller."""
    height, width = mask.shape
    box = np.array(box_around(mask) if mask.any() else [0, 0, 0, 0], dtype=np.float64)
    low, high = rng.choice([(0, 0), (0, 2), (-0.9, 0)])
    box += rng.uniform(low, high, 4) * [-1, -1, 1, 1]
    box = np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])
    return np.clip(box, 0, [width, height, width, height])


def drawn_keypoints(size, n, rng):
    keypoints = np.concatenate([rng.uniform(0, 1, (n, 2, 2)) * size[::-1], rng.integers(0, 3, (n, 2, 1))], axis=2)
    return (keypoints * (keypoints[..., 2:] > 0)).astype(np.float32)
