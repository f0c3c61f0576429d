"""A detector of one image with all that comes before and after it, as exported files hold it.

TorchScript compiles this module and ONNX traces it. Annotations are therefore plain, sizes are computed as they are in
``detect``, and nothing depends on the size of the image that is traced.
"""

import copy
from typing import TypeAlias, TypeVar, no_type_check

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from composer_copypaste.models.detectron2_style import draws_between_pixels, is_detectron2_style, sample_grid
from composer_copypaste.models.pillow_resize import resize_by_weights

INPUT = "image"
OUTPUTS = ("boxes", "scores", "labels", "masks")
"""Detectors that find boxes alone have no masks."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)
AnyDetector: TypeAlias = TorchvisionFasterRCNN | TorchvisionRetinaNet | TorchvisionFCOS


@no_type_check  # run-time checks of types would hide what is compiled
class SingleImage(nn.Module):
    """Finds the objects in one image, which is given as it was decoded from a file.

    Its layers are copies of the model's, on the CPU, in float32 and in evaluation mode.

    Args:
        model: a copy for it, as ``_plain_copy`` makes one.
    """

    sides: Tensor
    """The shorter side of a resized image, and the largest of its longer side."""

    def __init__(self, model: AnyDetector) -> None:
        super().__init__()
        sides = [model.transform.min_size[-1], model.transform.max_size]
        # torchvision's own, since ours cannot be compiled
        self.transform = GeneralizedRCNNTransform(*sides, model.transform.image_mean, model.transform.image_std)
        self.is_detectron2_style = is_detectron2_style(model)
        self.stride: int = model.transform.size_divisible
        self.register_buffer("sides", torch.tensor(sides, dtype=torch.float64), persistent=False)

    def _resize(self, image: Tensor, original: Tensor, resized: Tensor) -> ImageList:
        """The image as the network takes it; sizes are (height, width)."""
        height, width = _as_numbers(resized)
        if self.is_detectron2_style:
            pixels = resize_by_weights(image.permute(2, 0, 1).double(), original, resized)
            pixels = self.transform.normalize(pixels.float().flip(0))[None]
        else:
            pixels = self.transform.normalize(image.permute(2, 0, 1).float() / 255)
            pixels = interpolate(pixels[None], size=[height, width], mode="bilinear", align_corners=False)
        pixels = pad(pixels, [0, -width % self.stride, 0, -height % self.stride])
        return ImageList(pixels, [(height, width)])

    def _in_original(self, boxes: Tensor, original: Tensor, resized: Tensor) -> Tensor:
        """Boxes in the resized image, in pixels of the image."""
        ratio = (original.float() / resized.float()).to(boxes.device)
        return boxes * torch.cat([ratio, ratio]).flip(0)

    def _new_size(self, original: Tensor) -> Tensor:
        """The (height, width) to which an image is resized, in whole pixels."""
        return self._rounded_size(original) if self.is_detectron2_style else self._resized_size(original)

    def _resized_size(self, original: Tensor) -> Tensor:
        """The (height, width) to which an image is resized, in whole pixels.

        All factors are vectors of float64: in float32, as torchvision traces it, one side may come out a pixel shorter,
        and torch.onnx computes in float32 with float64 numbers that are no vectors.
        """
        size = original.double()
        shorter_and_longer = torch.cat([size.amin(0, keepdim=True), size.amax(0, keepdim=True)])
        factor = (self.sides / shorter_and_longer).amin(0, keepdim=True)
        return (size * factor).floor().long()

    def _rounded_size(self, original: Tensor) -> Tensor:
        """The same as ``resized_size`` of Detectron2's style, in float64."""
        size = original.double()
        shorter, longest = self.sides[:1], self.sides[1:]
        scaled = size * (shorter / size.amin(0, keepdim=True))
        scaled = torch.where(size == size.amin(0, keepdim=True), shorter, scaled)
        largest = scaled.amax(0, keepdim=True)
        return torch.floor(torch.where(largest > longest, scaled * (longest / largest), scaled) + 0.5).long()


@no_type_check
class SingleImageMaskRCNN(SingleImage):
    """Finds boxes and masks of the objects in one image.

    Args:
        model: as ``build_mask_rcnn`` makes it, or torchvision; it is not modified.
        paste: whether masks are given at the image's size, or as the crops that the model computes.
    """

    def __init__(self, model: TorchvisionMaskRCNN, *, paste: bool) -> None:
        model = _plain_copy(model)
        super().__init__(model)
        self.draws_between_pixels = draws_between_pixels(model)
        self.backbone, self.rpn, self.roi_heads = model.backbone, model.rpn, model.roi_heads
        # training, which cannot be compiled, is left behind
        self.roi_heads.__class__ = getattr(self.roi_heads, "compilable", type(self.roi_heads))
        self.mask_pool, self.roi_heads.mask_roi_pool = self.roi_heads.mask_roi_pool, None  # masks are computed below
        self.mask_head = nn.Sequential(self.roi_heads.mask_head, self.roi_heads.mask_predictor)
        self.roi_heads.mask_head = self.roi_heads.mask_predictor = None
        self.paste = paste
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The ``n`` objects in an image, best first: boxes, scores, labels and masks.

        Args:
            image: RGB, uint8 (height, width, 3).

        Returns:
            Boxes (x1, y1, x2, y2) in pixels of the image, float32 (n, 4); scores in [0, 1], float32 (n,); labels,
            int64 (n,); and masks: if pasted, of 0 and 1, uint8 (n, height, width), else probabilities inside the
            boxes, float32 (n, 28, 28).
        """
        original = torch._shape_as_tensor(image)[:2]
        resized = self._new_size(original)
        images = self._resize(image, original, resized)
        features = self.backbone(images.tensors)
        proposals = self.rpn(images, features)[0]
        found = self.roi_heads(features, proposals, images.image_sizes)[0][0]
        boxes = self._in_original(found["boxes"], original, resized)
        scores, labels = found["scores"], found["labels"]
        masks = self._compute_masks(features, found["boxes"], labels, images.image_sizes)
        if self.is_detectron2_style:
            edges = torch.cat([original, original]).flip(0).to(boxes)
            boxes = torch.minimum(boxes.clamp(min=0), edges)
            kept = torch.where(((boxes[:, 2:] - boxes[:, :2]) > 0).all(1))[0]
            boxes, scores, labels, masks = boxes[kept], scores[kept], labels[kept], masks[kept]
        if self.paste:
            masks = (
                paste_masks_between_pixels(masks, boxes, original)
                if self.draws_between_pixels
                else paste_masks(masks, boxes, original)
            )
        return boxes, scores, labels, masks

    def _compute_masks(
        self, features: dict[str, Tensor], boxes: Tensor, labels: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """The probabilities inside boxes in the resized image.

        One box more is computed: onnxruntime runs no group normalisation of nothing.
        """
        padded = torch.cat([boxes, torch.ones(1, 4, device=boxes.device)])
        all_labels = torch.cat([labels, torch.ones(1, dtype=torch.int64, device=boxes.device)])
        logits = self.mask_head(self.mask_pool(features, [padded], sizes))
        return maskrcnn_inference(logits, [all_labels])[0][:-1, 0]


@no_type_check
class SingleImageBoxes(SingleImage):
    """Finds the boxes of the objects in one image.

    Args:
        model: torchvision's Faster R-CNN, RetinaNet or FCOS; it is not modified.
    """

    def __init__(self, model: AnyDetector) -> None:
        model = _plain_copy(model)
        super().__init__(model)
        self.detector = _TwoStages(model) if isinstance(model, TorchvisionFasterRCNN) else _OneStage(model)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ``n`` objects in an image, best first: boxes, scores and labels, as of ``SingleImageMaskRCNN``."""
        original = torch._shape_as_tensor(image)[:2]
        resized = self._new_size(original)
        found = self.detector(self._resize(image, original, resized))
        kept = found["labels"] > 0  # RetinaNet and FCOS score the background as any other class
        boxes, scores, labels = found["boxes"][kept], found["scores"][kept], found["labels"][kept]
        return self._in_original(boxes, original, resized), scores, labels


@no_type_check
class _TwoStages(nn.Module):
    """What a Faster R-CNN finds in a resized image, by torchvision's names."""

    def __init__(self, model: TorchvisionFasterRCNN) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = model.backbone, model.rpn, model.roi_heads

    def forward(self, images: ImageList) -> dict[str, Tensor]:
        features = self.backbone(images.tensors)
        proposals = self.rpn(images, features)[0]
        return self.roi_heads(features, proposals, images.image_sizes)[0][0]


@no_type_check
class _OneStage(nn.Module):
    """The same of a RetinaNet or an FCOS."""

    def __init__(self, model: TorchvisionRetinaNet | TorchvisionFCOS) -> None:
        super().__init__()
        self.model = model
        self.anchors: int = model.anchor_generator.num_anchors_per_location()[0]

    def forward(self, images: ImageList) -> dict[str, Tensor]:
        features: list[Tensor] = list(self.model.backbone(images.tensors).values())
        anchors = self.model.anchor_generator(images, features)[0]
        counts = [feature.size(2) * feature.size(3) * self.anchors for feature in features]
        by_level: dict[str, list[Tensor]] = {}
        for name, values in self.model.head(features).items():
            by_level[name] = list(values.split(counts, dim=1))
        return self.model.postprocess_detections(by_level, [list(anchors.split(counts))], images.image_sizes)[0]


def single_image(model: AnyDetector, *, paste: bool) -> SingleImage:
    """One of torchvision's detectors for one image, as exported files hold it.

    ``paste``: whether masks, of a Mask R-CNN, are given at the image's size.
    """
    has_masks = isinstance(model, TorchvisionMaskRCNN)
    return SingleImageMaskRCNN(model, paste=paste) if has_masks else SingleImageBoxes(model)


def _plain_copy(model: ModuleT) -> ModuleT:
    """A copy of the model on the CPU, in float32 and in evaluation mode, that can be compiled."""
    model = copy.deepcopy(model).cpu().float().eval()
    _remove_hooks(model)
    return model


@no_type_check
def _as_numbers(size: Tensor) -> list[int]:
    """The whole numbers of a vector; where they are traced, tensors that stand for them."""
    if torch.jit.is_scripting():
        numbers: list[int] = size.tolist()
        return numbers
    return list(size.unbind()) if torch.jit.is_tracing() else size.tolist()


def _remove_hooks(model: nn.Module) -> None:
    """Remove the hooks that keep boxes in float32 under autocast: here all is float32, and they cannot be compiled."""
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


@torch.jit.script  # ONNX traces a loop only where it is compiled
@no_type_check
def paste_masks(probabilities: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
    """Masks of (n, m, m) probabilities, resized to their boxes and thresholded at 0.5, in an image of a size.

    They are computed as ``encode_masks`` does: uint8 (n, height, width). ``size`` is (height, width), int64 on the
    host.
    """
    side = probabilities.size(1) + 2  # as torchvision does it, with a border of zeros
    padded = pad(probabilities, [1, 1, 1, 1])
    corners = boxes.to(torch.device("cpu"))
    centre = (corners[:, 2:] + corners[:, :2]).flip(1) * 0.5  # (y, x)
    half = (corners[:, 2:] - corners[:, :2]).flip(1) * 0.5 * (float(side) / float(side - 2))
    first = (centre - half).long()
    extent = ((centre + half).long() - first + 1).clamp(min=1)
    begin = torch.minimum(first.clamp(min=0), size)
    end = torch.maximum(torch.minimum(first + extent, size), begin)
    planes: list[Tensor] = []
    for i in range(probabilities.size(0)):
        top, left = int(begin[i, 0] - first[i, 0]), int(begin[i, 1] - first[i, 1])
        bottom, right = int(end[i, 0] - first[i, 0]), int(end[i, 1] - first[i, 1])
        shape = [int(extent[i, 0]), int(extent[i, 1])]
        resized = interpolate(padded[i][None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]
        visible = (resized[top:bottom, left:right] > 0.5).to(torch.uint8)
        rest = size - end[i]
        planes.append(pad(visible, [int(begin[i, 1]), int(rest[1]), int(begin[i, 0]), int(rest[0])]))
    # one more plane: nothing cannot be stacked
    planes.append(torch.zeros([int(size[0]), int(size[1])], dtype=torch.uint8, device=probabilities.device))
    return torch.stack(planes)[:-1]


@torch.jit.script
@no_type_check
def paste_masks_between_pixels(probabilities: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
    """The same where boxes are not rounded, as ``sample_mask`` computes them."""
    corners = boxes.to(torch.device("cpu"))
    begin = (torch.floor(corners[:, :2]) - 1).clamp(min=0).flip(1).long()  # (row, column)
    end = torch.minimum((torch.ceil(corners[:, 2:]) + 1).flip(1).long(), size)
    planes: list[Tensor] = []
    for i in range(probabilities.size(0)):
        top, left, bottom, right = int(begin[i, 0]), int(begin[i, 1]), int(end[i, 0]), int(end[i, 1])
        rows = torch.arange(top, bottom, device=boxes.device).to(boxes.dtype)
        columns = torch.arange(left, right, device=boxes.device).to(boxes.dtype)
        visible = (sample_grid(probabilities[i][None], boxes[i], rows, columns) >= 0.5).to(torch.uint8)
        rest = size - end[i]
        planes.append(pad(visible, [left, int(rest[1]), top, int(rest[0])]))
    planes.append(torch.zeros([int(size[0]), int(size[1])], dtype=torch.uint8, device=probabilities.device))
    return torch.stack(planes)[:-1]
