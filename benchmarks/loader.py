"""Images/s that one core loads: ``training_dataloader`` with large-scale jitter, against torchvision's own data set.

    python benchmarks/loader.py [--images DIR --annotations FILE.json] [--size 1024] [--count 64] [--rounds 5]

By default, shapes are drawn. All read the same files in one process on one thread and give batches of uint8 images with
boxes, labels and masks, jittered by 0.1-2.0, cropped or padded to ``size``, mirrored half the time. Ours gives masks as
cut-outs, as trainings take them, or as planes, and the images of a batch as one tensor. torchvision has
``CocoDetection`` wrapped for its v2 transforms, the transforms of its reference training (``ScaleJitter``, a fixed-size
crop, ``RandomHorizontalFlip``, ``SanitizeBoundingBoxes``), and gives planes and lists. Images without objects are left
out, as in the reference training. Then it says how many bytes a worker process hands over for a batch, and what share
of the planes' that is.
"""

import argparse
import json
import tempfile
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import best_seconds, keep_freed_memory
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.data.dataset import CocoInstances, MaskForm
from composer_copypaste.data.loaders import Batch, training_dataloader
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.transforms import PADDING, LargeScaleJitterTransform
from composer_copypaste.settings import LargeScaleJitterSettings, ShapesSettings

BATCH_SIZE = 4


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of the images (default: shapes are drawn)")
    parser.add_argument("--annotations", type=Path, help="their COCO instance JSON")
    parser.add_argument("--size", type=int, default=1024, help="side of the jittered images (default: %(default)s)")
    parser.add_argument("--count", type=int, default=64, help="load at most this many images (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="take the best of this many rounds (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if (options.images is None) != (options.annotations is None):
        parser.error("--images and --annotations belong together")
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        images, annotations = options.images, options.annotations
        if images is None:
            shapes = draw_shapes(ShapesSettings(folder=f"{folder}/shapes", train=options.count, val=1, size=512))
            images, annotations = shapes / "train", shapes / "annotations" / "instances_train.json"
        compare(images, _first_images(annotations, options.count, Path(folder)), options.size, options.rounds)


def compare(images: Path, annotations: Path, size: int, rounds: int) -> None:
    """Load all images with both, and print the rates."""
    loaders = {
        "ours, cut-outs": _ours(images, annotations, size, "compact"),
        "ours, planes": _ours(images, annotations, size, masks=True),
        "torchvision": _torchvision(images, annotations, size),
    }
    seconds = best_seconds({name: partial(deque, loader, 0) for name, loader in loaders.items()}, rounds)
    count = len(loaders["torchvision"]) * BATCH_SIZE
    print(f"{count} images to {size} x {size} in batches of {BATCH_SIZE}, one core, best of {rounds} rounds")
    for name, took in seconds.items():
        print(f"{name:16}{count / took:8.1f} images/s{seconds['torchvision'] / took:8.2f} x torchvision")
    handed, planes = zip(*(_bytes_handed_over(batch) for batch in loaders["ours, cut-outs"]), strict=True)
    print(f"{sum(handed) / count / 2**20:.2f} MiB of targets an image, {sum(handed) / sum(planes):.4f} of planes'")


def _ours(images: Path, annotations: Path, size: int, masks: MaskForm) -> DataLoader[Any]:
    jitter = LargeScaleJitterTransform(LargeScaleJitterSettings(size=(size, size)))
    return training_dataloader(CocoInstances(images, annotations, jitter, masks=masks), batch_size=BATCH_SIZE)


def _bytes_handed_over(batch: Batch) -> tuple[int, int]:
    """The bytes of a batch's targets, and those of the same targets with planes."""
    handed = planes = 0
    for target in batch[1]:
        for values in target.values():
            if isinstance(values, CompactMasks):
                handed, planes = handed + values.nbytes, planes + values.dense().nbytes
            elif isinstance(values, torch.Tensor):
                handed, planes = handed + values.nbytes, planes + values.nbytes
    return handed, planes


class FixedSizeCrop(v2.Transform):
    """A random crop of images larger than ``size``; smaller ones are padded at the bottom and on the right.

    The reference scripts have such a crop; v2's ``RandomCrop`` pads on both sides.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """Draw the crop of the image, which is the first input."""
        height, width = v2.functional.get_size(flat_inputs[0])
        top, left = (int(torch.randint(max(0, side - self.size) + 1, ())) for side in (height, width))
        return {"top": top, "left": left, "height": min(height, self.size), "width": min(width, self.size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop the image, the boxes or the masks."""
        cropped = self._call_kernel(v2.functional.crop, inpt, **params)
        fill = 0 if isinstance(inpt, Mask) else list(PADDING)
        padding = [0, 0, self.size - params["width"], self.size - params["height"]]
        return self._call_kernel(v2.functional.pad, cropped, padding=padding, fill=fill)


def _torchvision(images: Path, annotations: Path, size: int) -> DataLoader[Any]:
    transforms = v2.Compose(
        [
            v2.ToImage(),
            v2.ScaleJitter(target_size=(size, size), scale_range=(0.1, 2.0), antialias=True),
            FixedSizeCrop(size),
            v2.RandomHorizontalFlip(),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    dataset = CocoDetection(images, annotations, transforms=transforms)
    wrapped = wrap_dataset_for_transforms_v2(dataset, target_keys=("image_id", "boxes", "labels", "masks"))
    return DataLoader(wrapped, batch_size=BATCH_SIZE, shuffle=True, drop_last=True, collate_fn=_as_lists)


def _as_lists(samples: list[Any]) -> tuple[Any, ...]:
    """The batch as torchvision's reference training collates it."""
    return tuple(zip(*samples, strict=True))


def _first_images(annotations: Path, count: int, folder: Path) -> Path:
    """An annotation file of the first images with objects; run lengths as lists, which torchvision reads."""
    data = json.loads(annotations.read_text())
    filled = {annotation["image_id"] for annotation in data["annotations"]}
    data["images"] = [image for image in data["images"] if image["id"] in filled][:count]
    chosen = {image["id"] for image in data["images"]}
    data["annotations"] = [_uncompressed(each) for each in data["annotations"] if each["image_id"] in chosen]
    file = folder / "annotations.json"
    file.write_text(json.dumps(data))
    return file


def _uncompressed(annotation: dict[str, Any]) -> dict[str, Any]:
    rle = annotation["segmentation"]
    if isinstance(rle, list) or isinstance(rle["counts"], list):
        return annotation
    pixels = coco_mask.decode(rle).ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=np.uint8(0), append=np.uint8(2)))
    return annotation | {"segmentation": {"size": rle["size"], "counts": np.diff(changes, prepend=0).tolist()}}


if __name__ == "__main__":
    main()
