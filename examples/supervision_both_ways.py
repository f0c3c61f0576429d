"""Paste objects in a data set that supervision has read; it draws and writes what comes of that.

python examples/supervision_both_ways.py photos/train train.json pasted  # a new folder
"""

from pathlib import Path

import click
import supervision as sv  # pip install supervision opencv-python
import torch
from PIL import Image

from composer_copypaste import copypaste_batch
from composer_copypaste.integrations.supervision import targets_from_supervision, targets_to_supervision


def paste(images: str, annotations: str, output: str) -> None:
    if Path(output).exists():
        raise click.BadParameter(f"{output!r} is there already; name a new folder.")
    data = sv.DetectionDataset.from_coco(images, annotations, force_masks=True)
    paths, pixels, detections = zip(*data, strict=True)  # one batch: take parts of large data sets
    targets = targets_from_supervision(detections, [image.shape[:2] for image in pixels])
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in pixels]
    tensors, targets = copypaste_batch(tensors, targets, min_visibility=0.3, p=1.0)
    pasted = {}
    Path(output).mkdir(parents=True)
    for path, tensor, found in zip(paths, tensors, targets_to_supervision(targets), strict=True):
        image, file = tensor.permute(1, 2, 0).numpy(), Path(output, f"{Path(path).stem}.png")
        masked = sv.MaskAnnotator().annotate(image.copy(), found)
        Image.fromarray(image[..., ::-1]).save(file)  # supervision's images are BGR, as OpenCV's
        Image.fromarray(masked[..., ::-1]).save(file.with_suffix(".masks.jpg"))
        pasted[str(file)] = found
    sv.DetectionDataset(data.classes, list(pasted), pasted).as_coco(annotations_path=f"{output}/annotations.json")


if __name__ == "__main__":
    files = [click.Argument([n], type=click.Path(exists=n != "output")) for n in ("images", "annotations", "output")]
    click.Command(None, callback=paste, params=files, help=__doc__, no_args_is_help=True)()
