"""Training on masks that are cut-outs: the losses of torchvision on planes, and no plane is made."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import maskrcnn_loss, project_masks_on_boxes

from composer_copypaste import MaskRCNN
from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.models.detectron2_style import sample_mask
from composer_copypaste.models.mask_loss import CompactMaskRoIHeads, mask_loss, mask_targets, resized_masks
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.postprocess import detect
from composer_copypaste.settings import MaskRCNNSettings

SIZE = (96, 130)


def drawn_masks(n, size=SIZE, seed=0):
    """Noise in rectangles, two parts in some; some touch edges of the image, one fills it, one is a pixel."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, *size), dtype=np.uint8)
    for k, mask in enumerate(masks):
        y1, x1 = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        y2, x2 = rng.integers(y1 + 1, size[0] + 1), rng.integers(x1 + 1, size[1] + 1)
        edges = {0: (0, x1, y2, x2), 1: (y1, x1, size[0], size[1]), 2: (0, 0, *size), 3: (y1, x1, y1 + 1, x1 + 1)}
        y1, x1, y2, x2 = edges.get(k, (y1, x1, y2, x2))
        mask[y1:y2, x1:x2] = 1 if k == 3 else rng.random((y2 - y1, x2 - x1)) < 0.7
    return torch.from_numpy(masks)


def drawn_boxes(n, size=SIZE, seed=0):
    """Boxes of any place and size, some of which reach beyond the image."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-4, np.array([size[1], size[0]] * 2) + 4, (n, 4)).reshape(n, 2, 2)
    return torch.from_numpy(np.sort(corners, axis=1).reshape(n, 4).astype(np.float32))


@pytest.mark.parametrize("seed", range(8))
def test_targets_are_those_of_torchvision_on_planes(seed):
    masks, boxes = drawn_masks(9, seed=seed), drawn_boxes(60, seed=seed)
    objects = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, 60))
    found = mask_targets([CompactMasks.from_dense(masks)], [boxes], [objects], 28)
    torch.testing.assert_close(found, project_masks_on_boxes(masks, boxes, objects, 28), rtol=0, atol=2e-5)


def test_loss_and_gradients_are_those_of_torchvision():
    masks = [drawn_masks(5, seed=1), drawn_masks(0), drawn_masks(9, (64, 64), seed=2)]
    boxes = [drawn_boxes(20), drawn_boxes(0), drawn_boxes(30, (64, 64))]
    rng = np.random.default_rng(0)
    objects = [torch.from_numpy(rng.integers(0, max(1, len(m)), len(b))) for m, b in zip(masks, boxes, strict=True)]
    labels = [torch.from_numpy(rng.integers(1, 4, len(own))) for own in masks]
    values = rng.normal(size=(50, 4, 28, 28))
    chosen = torch.cat([own[index] for own, index in zip(labels, objects, strict=True)])
    here, there = (torch.tensor(values, requires_grad=True) for _ in range(2))
    expected = maskrcnn_loss(there, boxes, masks, labels, objects)
    found = mask_loss(here, chosen, [CompactMasks.from_dense(own) for own in masks], boxes, objects)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    found.backward()
    expected.backward()
    torch.testing.assert_close(here.grad, there.grad, rtol=0, atol=1e-8)


def test_the_loss_of_no_proposals_is_zero():
    logits = torch.ones(0, 3, 28, 28, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = mask_loss(logits, none, [CompactMasks.from_dense(drawn_masks(0))], [torch.zeros(0, 4)], [none])
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(48, 65), (96, 130), (200, 260), (131, 77)])
def test_masks_are_resized_as_planes_are(size, aligned):
    masks = drawn_masks(7)
    expected = interpolate(masks[:, None], size, mode="nearest-exact" if aligned else "nearest")[:, 0]
    assert torch.equal(resized_masks(masks, size, aligned=aligned), expected)
    assert torch.equal(resized_masks(CompactMasks.from_dense(masks), size, aligned=aligned).dense(), expected)


class NoPlanes(TorchDispatchMode):
    """Fails where a tensor is made that has a plane of the images' size for each of the objects."""

    def __init__(self, objects, *sizes):
        super().__init__()
        self.objects, self.sizes = objects, sizes

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.ndim > 2 and tuple(made.shape[-2:]) in self.sizes:
            assert self.objects not in made.shape[:-2], f"{operation} makes {tuple(made.shape)}"
        return made


def losses_of(model, images, targets):
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.autocast):
        losses = model((images, targets))
    sum(losses.values()).backward()
    gradients = {name: values.grad.clone() for name, values in model.named_parameters() if values.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def batch_of(masks, form):
    corners = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in map(np.nonzero, masks.numpy())]
    boxes = torch.from_numpy(np.array(corners, dtype=np.float32))
    fields = {"boxes": boxes, "labels": torch.arange(len(masks)) % 2 + 1, "masks": form(masks)}
    fields["iscrowd"] = torch.tensor([0] * (len(masks) - 1) + [1])
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)), [fields] * 2


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("resizes", [False, True])
def test_a_training_step_on_cut_outs_gives_the_losses_and_gradients_of_planes(resizes, autocast):
    torch.manual_seed(0)
    model = MaskRCNN(3, backbone="small", resize_training=resizes, min_size=80)
    model.autocast = autocast
    masks = drawn_masks(5)
    expected = losses_of(model, *batch_of(masks, torch.clone))
    found = losses_of(model, *batch_of(masks, CompactMasks.from_dense))
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
    if not autocast:  # in half precision the order of sums shows
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)
    name = "module.roi_heads.mask_predictor.mask_fcn_logits.weight"
    torch.testing.assert_close(found[1][name], expected[1][name], rtol=1e-3, atol=1e-6)


def test_the_heads_of_detectron2_train_on_cut_outs_too():
    torch.manual_seed(0)
    model = MaskRCNN(3, backbone="resnet18", style="detectron2", min_size=64)
    model.autocast = False
    masks = drawn_masks(5)
    expected = losses_of(model, *batch_of(masks, torch.clone))
    found = losses_of(model, *batch_of(masks, CompactMasks.from_dense))
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("resizes", [False, True])
def test_a_training_step_on_cut_outs_makes_no_plane(resizes):
    model = MaskRCNN(3, backbone="small", resize_training=resizes, min_size=80)
    model.autocast = False
    planes, cut_outs = (batch_of(drawn_masks(5), form) for form in (torch.clone, CompactMasks.from_dense))
    sizes = [SIZE, (80, 108), (96, 128), (96, 160)]
    with NoPlanes(4, *sizes):
        losses_of(model, *cut_outs)
    with NoPlanes(4, *sizes), pytest.raises(AssertionError, match="makes"):
        losses_of(model, *planes)


# Aligned masks


def disc(box, size):
    """The pixels whose middle lies in the largest circle of a box."""
    x, y = (box[:2] + box[2:]) / 2
    down, across = (torch.arange(side) + 0.5 for side in size)
    inside = (across - x).square() + (down - y).square()[:, None] < ((box[2] - box[0]) / 2).square()
    return inside.to(torch.uint8)


@pytest.mark.parametrize("resized", [20, 32, 50])
@pytest.mark.parametrize("length", [4, 8, 16])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (3.0, 5.0), (2.3, 6.8), (4.0, 4.0)])
def test_what_aligned_heads_learn_of_a_mask_is_drawn_as_that_mask(corner, length, resized):
    size, box = (20, 20), torch.tensor([*corner, *(low + length for low in corner)])
    mask = disc(box, size)
    seen = resized_masks(CompactMasks.from_dense(mask[None]), (resized, resized), aligned=True)
    target = mask_targets([seen], [box[None] * (resized / 20)], [torch.tensor([0])], 28, aligned=True)
    drawn, (top, left) = sample_mask(target, box, size)
    found = torch.zeros_like(mask)
    found[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    assert torch.equal(found, mask)


def test_aligned_losses_on_cut_outs_are_those_on_planes_and_others_than_torchvisions():
    torch.manual_seed(0)
    model = MaskRCNN(3, backbone="small", min_size=80, aligned_masks=True)
    model.autocast = False
    masks = drawn_masks(5)
    expected = losses_of(model, *batch_of(masks, torch.clone))
    found = losses_of(model, *batch_of(masks, CompactMasks.from_dense))
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)
    model.module.roi_heads.__class__ = CompactMaskRoIHeads
    torchvisions, _ = losses_of(model, *batch_of(masks, torch.clone))
    assert torchvisions.pop("loss_mask") != found[0].pop("loss_mask")
    assert torchvisions == found[0]


@pytest.mark.parametrize("aligned", [False, True])
def test_a_model_that_is_called_as_torchvisions_draws_masks_as_detect_does(aligned):
    torch.manual_seed(0)
    settings = {"box_score_thresh": 0.0, "detections_per_image": 9, "min_size": 64, "aligned_masks": aligned}
    module = build_mask_rcnn(3, MaskRCNNSettings(backbone="small", **settings)).eval()
    image = torch.rand(3, 40, 60)
    with torch.no_grad():
        (drawn,) = module([image])
    (found,) = detect(module, [image])
    masks = torch.from_numpy(coco_masks.decode(found["rles"])).permute(2, 0, 1)
    over_half = drawn["masks"][:, 0] >= 0.5 if aligned else drawn["masks"][:, 0] > 0.5
    assert masks.any()
    assert torch.equal(over_half.to(torch.uint8), masks)
    assert torch.equal(drawn["boxes"], found["boxes"])


def test_masks_of_other_values_are_an_error():
    images, targets = batch_of(drawn_masks(3), lambda masks: CompactMasks.of_planes(masks * 255))
    with pytest.raises(ValueError, match=r"targets\[0\]: expected 'masks' of 0 and 1, got 255"):
        MaskRCNN(3, backbone="small")((images, targets))
