"""Torchvision's Mask R-CNN with the rules of Detectron2's: what its zoo's weights were trained with.

Layers and their names are torchvision's. What differs is how images are resized, where anchors lie, how features are
pooled, which proposals and detections are kept, and how masks are put into the image.
"""

import math
from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.models.resnet import Bottleneck
from torchvision.ops import (
    FrozenBatchNorm2d,
    MultiScaleRoIAlign,
    batched_nms,
    clip_boxes_to_image,
    remove_small_boxes,
    roi_align,
)
from torchvision.ops._utils import convert_boxes_to_roi_format

from composer_copypaste.models.mask_loss import AlignedMaskRoIHeads, TrainsOnCompactMasks, resized_masks
from composer_copypaste.models.pillow_resize import resize_as_pillow

MARK = "detectron2_style"
"""The tensor by which weights of such a model are told from torchvision's: all others have the same names and sizes."""

PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STD = (1.0, 1.0, 1.0)
"""Mean and deviation of blue, green and red, which the network takes in this order, of images from 0 to 255."""

POOLED_LEVELS = ("0", "1", "2", "3")
SMALLEST_SIDE = torch.finfo(torch.float32).tiny
"""Boxes with a smaller side are left out: those without an area."""


def is_detectron2_style(model: nn.Module) -> bool:
    """Whether a model is built by these rules."""
    return hasattr(model, MARK)


def draws_between_pixels(model: nn.Module) -> bool:
    """Whether the masks that a model finds are drawn as ``sample_mask`` does it, and not as torchvision does."""
    return is_detectron2_style(model) or isinstance(getattr(model, "roi_heads", None), AlignedMaskRoIHeads)


def apply_detectron2_style(model: TorchvisionMaskRCNN) -> None:
    """Give a new Mask R-CNN Detectron2's rules; its weights stay as they are.

    Its anchors must be ``Detectron2Anchors``, and its backbone a ResNet of torchvision's.
    """
    _move_strides(model.backbone.body)
    old, transform = model.rpn, model.transform
    model.transform = Detectron2Transform(
        transform.min_size, transform.max_size, PIXEL_MEAN, PIXEL_STD, _skip_resize=transform._skip_resize
    )
    model.rpn = Detectron2RPN(
        old.anchor_generator,
        old.head,
        old.proposal_matcher.high_threshold,
        old.proposal_matcher.low_threshold,
        old.fg_bg_sampler.batch_size_per_image,
        old.fg_bg_sampler.positive_fraction,
        old._pre_nms_top_n,
        old._post_nms_top_n,
        old.nms_thresh,
    )
    model.rpn.min_size = SMALLEST_SIDE
    heads = model.roi_heads
    model.roi_heads = Detectron2CompactRoIHeads(
        Detectron2RoIPool(heads.box_roi_pool.output_size[0]),
        heads.box_head,
        heads.box_predictor,
        heads.proposal_matcher.high_threshold,
        heads.proposal_matcher.low_threshold,
        heads.fg_bg_sampler.batch_size_per_image,
        heads.fg_bg_sampler.positive_fraction,
        heads.box_coder.weights,
        heads.score_thresh,
        heads.nms_thresh,
        heads.detections_per_img,
        Detectron2RoIPool(heads.mask_roi_pool.output_size[0]),
        heads.mask_head,
        heads.mask_predictor,
    )
    model.register_buffer(MARK, torch.ones((), dtype=torch.uint8))


def _move_strides(body: nn.Module) -> None:
    """Let the first 1x1 convolution of a stage reduce the features, as in the original ResNet, not the 3x3 one."""
    for block in body.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


class Detectron2FrozenBatchNorm(FrozenBatchNorm2d):
    """Torchvision's, computed as Detectron2 does where nothing is trained before it: rounded in the same way."""

    @no_type_check  # TorchScript compiles it
    def forward(self, x: Tensor) -> Tensor:
        """The normalised features."""
        if not x.requires_grad:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.running_mean * scale).reshape(1, -1, 1, 1)


# ---- images


class Detectron2Transform(GeneralizedRCNNTransform):
    """Resizes images as Pillow does, to sides that are rounded, and normalises them after that, as BGR."""

    def normalize(self, image: Tensor) -> Tensor:
        """The image as it is, floating point in [0, 1]; ``resize`` normalises it."""
        if not image.is_floating_point():
            raise TypeError(f"image: expected floating point in [0, 1], got {image.dtype}")
        return image

    def resize(self, image: Tensor, target: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any] | None]:
        """The image, resized and normalised, and its target."""
        size = (image.shape[1], image.shape[2])
        resized = size
        if not (self.training and self._skip_resize):
            shorter = self.torch_choice(self.min_size) if self.training else self.min_size[-1]
            resized = resized_size(size, shorter, self.max_size)
            image = resize_as_pillow((image * 255).round(), resized)
        else:
            image = image * 255
        image = super().normalize(image.flip(0))
        if target is None or resized == size:
            return image, target
        target = {**target, "boxes": resize_boxes(target["boxes"], list(size), list(resized))}
        if "masks" in target:
            target["masks"] = resized_masks(target["masks"], resized, aligned=True)
        return image, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """The detections at the images' own sizes, with masks as probabilities there: (n, 1, height, width)."""
        if self.training:
            return result
        found = []
        for detected, resized, size in zip(result, image_shapes, original_image_sizes, strict=True):
            boxes, kept = boxes_in_image(detected["boxes"], resized, size)
            others = {name: values[kept] for name, values in detected.items() if name != "boxes"}
            if "masks" in others:
                others["masks"] = paste_probabilities(others["masks"], boxes, size)
            found.append({"boxes": boxes, **others})
        return found


def resized_size(size: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """The (height, width) of an image whose shorter side becomes ``shorter``, and the other ``longest`` at most."""
    height, width = size
    scale = shorter / min(size)
    new = (float(shorter), scale * width) if height < width else (scale * height, float(shorter))
    if max(new) > longest:
        scale = longest / max(new)
        new = (new[0] * scale, new[1] * scale)
    return int(new[0] + 0.5), int(new[1] + 0.5)


def boxes_in_image(
    boxes: Float[Tensor, "n 4"], resized: tuple[int, int], size: tuple[int, int]
) -> tuple[Float[Tensor, "m 4"], Tensor]:
    """The boxes in the image's own pixels, without those that have no area there, and the indices of those kept."""
    boxes = clip_boxes_to_image(resize_boxes(boxes, list(resized), list(size)), size)
    kept = remove_small_boxes(boxes, SMALLEST_SIDE)
    return boxes[kept], kept


# ---- anchors and features


class Detectron2Anchors(AnchorGenerator):
    """Anchors whose sides are not rounded, at the strides of the pyramid, however large the image is."""

    @no_type_check
    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - as in torchvision
    ) -> Tensor:
        """The anchors around (0, 0), (n, 4)."""
        sides = [(math.sqrt(scale**2 / ratio), ratio) for scale in scales for ratio in aspect_ratios]
        boxes = [(-width / 2, -width * ratio / 2, width / 2, width * ratio / 2) for width, ratio in sides]
        return torch.tensor(boxes, dtype=dtype, device=device)

    @no_type_check  # TorchScript compiles it, as what follows here
    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """All anchors of each image."""
        sizes = [level.shape[-2:] for level in feature_maps]
        device = feature_maps[0].device
        strides = [torch.tensor(4 << level, device=device) for level in range(len(sizes))]
        self.set_cell_anchors(feature_maps[0].dtype, device)
        anchors = torch.cat(self.grid_anchors(sizes, [[stride, stride] for stride in strides]))
        return [anchors for _ in image_list.image_sizes]


class Detectron2RoIPool(MultiScaleRoIAlign):
    """Pools features at the middles of pixels, with as many samples as a box covers."""

    __annotations__ = MultiScaleRoIAlign.__annotations__

    def __init__(self, side: int) -> None:
        super().__init__(list(POOLED_LEVELS), output_size=side, sampling_ratio=0)

    @no_type_check
    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """The features of all boxes, in their order."""
        rois = convert_boxes_to_roi_format(boxes)
        sides = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
        level = torch.floor(4 + torch.log2(sides / 224 + 1e-8)).clamp(2, 5).long() - 2
        pooled: list[Tensor] = []
        order: list[Tensor] = []
        for number, name in enumerate(self.featmap_names):
            chosen = torch.where(level == number)[0]
            features = x[name]
            order.append(chosen)
            pooled.append(
                roi_align(features, rois[chosen].to(features.dtype), self.output_size, 0.25 / 2**number, 0, True)
            )
        return torch.cat(pooled)[torch.argsort(torch.cat(order))]


# ---- proposals and detections


class Detectron2RPN(RegionProposalNetwork):
    """Ranks proposals by their logits, of which many have a probability of 1, and keeps all that have an area."""

    __annotations__ = RegionProposalNetwork.__annotations__

    @no_type_check
    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The boxes and logits of each image's proposals, best first."""
        images = proposals.shape[0]
        objectness = objectness.detach().reshape(images, -1)
        levels = torch.cat(
            [
                torch.full((count,), number, device=proposals.device)
                for number, count in enumerate(num_anchors_per_level)
            ]
        )
        best = self._get_top_n_idx(objectness, num_anchors_per_level)
        boxes_of: list[Tensor] = []
        logits_of: list[Tensor] = []
        for image, size in enumerate(image_shapes):
            chosen = best[image]
            boxes = clip_boxes_to_image(proposals[image][chosen], size)
            logits = objectness[image][chosen]
            level = levels[chosen]
            kept = remove_small_boxes(boxes, self.min_size)
            boxes, logits, level = boxes[kept], logits[kept], level[kept]
            kept = batched_nms(boxes, logits, level, self.nms_thresh)[: self.post_nms_top_n()]
            boxes_of.append(boxes[kept])
            logits_of.append(logits[kept])
        return boxes_of, logits_of


class Detectron2RoIHeads(RoIHeads):
    """Keeps detections as small as they may be; those without an area are left out at the image's own size."""

    __annotations__ = RoIHeads.__annotations__

    @no_type_check
    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The boxes, scores and labels of each image's detections, best first."""
        counts = [boxes.shape[0] for boxes in proposals]
        all_boxes = self.box_coder.decode(box_regression, proposals).split(counts, 0)
        last = class_logits.roll(-1, 1)  # the background is Detectron2's last class: sums are rounded in that order
        all_scores = functional.softmax(last, -1)[:, :-1].split(counts, 0)
        boxes_of: list[Tensor] = []
        scores_of: list[Tensor] = []
        labels_of: list[Tensor] = []
        for image, size in enumerate(image_shapes):
            boxes = clip_boxes_to_image(all_boxes[image], size)[:, 1:]
            scores = all_scores[image]
            classes = torch.arange(scores.shape[1], device=scores.device).view(1, -1).expand_as(scores).reshape(-1)
            boxes, scores = boxes.reshape(-1, 4), scores.reshape(-1)
            kept = torch.where(scores > self.score_thresh)[0]
            boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
            kept = batched_nms(boxes, scores, classes, self.nms_thresh)[: self.detections_per_img]
            boxes_of.append(boxes[kept])
            scores_of.append(scores[kept])
            labels_of.append(classes[kept] + 1)
        return boxes_of, scores_of, labels_of


class Detectron2CompactRoIHeads(TrainsOnCompactMasks, Detectron2RoIHeads):
    """The same heads, which take the masks of training targets as planes and as cut-outs."""

    compilable = Detectron2RoIHeads
    aligned = True


# ---- masks


def sample_mask(
    probabilities: Float[Tensor, "1 m m"], box: Float[Tensor, " 4"], size: tuple[int, int]
) -> tuple[Bool[Tensor, "h w"], tuple[int, int]]:
    """The pixels around a box that are in its mask, and the (row, column) of the first of them in the image.

    Probabilities are interpolated at the middle of each pixel, wherever between pixels the box begins.
    """
    sampled, corner = _sample_probabilities(probabilities, box, size)
    return sampled >= 0.5, corner


def _sample_probabilities(
    probabilities: Float[Tensor, "1 m m"], box: Float[Tensor, " 4"], size: tuple[int, int]
) -> tuple[Float[Tensor, "h w"], tuple[int, int]]:
    left, top = (max(math.floor(edge) - 1, 0) for edge in box[:2].tolist())
    right, bottom = (min(math.ceil(edge) + 1, side) for edge, side in zip(box[2:].tolist(), size[::-1], strict=True))
    rows = torch.arange(top, bottom, dtype=torch.float32, device=box.device)
    columns = torch.arange(left, right, dtype=torch.float32, device=box.device)
    return sample_grid(probabilities, box, rows, columns), (top, left)


@no_type_check
def sample_grid(probabilities: Tensor, box: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The probabilities of a box, (1, m, m), at pixels of the image, (rows, columns); those outside of it are 0."""
    y = (rows + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (columns + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = torch.stack([x[None, :].expand(len(y), len(x)), y[:, None].expand(len(y), len(x))], dim=2)
    return functional.grid_sample(probabilities[None], grid[None].to(probabilities.dtype), align_corners=False)[0, 0]


def paste_probabilities(
    probabilities: Float[Tensor, "n 1 m m"], boxes: Float[Tensor, "n 4"], size: tuple[int, int]
) -> Float[Tensor, "n 1 h w"]:
    """The probabilities of masks at the image's size, as ``sample_mask`` interpolates them."""
    planes = probabilities.new_zeros((len(boxes), 1, *size))
    for plane, mask, box in zip(planes, probabilities, boxes, strict=True):
        sampled, (top, left) = _sample_probabilities(mask, box, size)
        plane[0, top : top + sampled.shape[0], left : left + sampled.shape[1]] = sampled
    return planes
