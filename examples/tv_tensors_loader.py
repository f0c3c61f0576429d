"""Copy-paste in a loader of torchvision's tv_tensors, after its transforms of single images.

python examples/tv_tensors_loader.py photos/train train.json
"""

import click
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from composer_copypaste import CopyPasteTransform

OF_SINGLE_IMAGES = v2.Compose(
    [v2.ToImage(), v2.RandomPhotometricDistort(), v2.ScaleJitter((128, 128)), v2.SanitizeBoundingBoxes()]
)


def loader(images: str, annotations: str, workers: int = 0) -> DataLoader:
    data = CocoDetection(images, annotations, transforms=OF_SINGLE_IMAGES)
    data.ids = [number for number in data.ids if data.coco.getAnnIds(number)]  # torchvision gives others no boxes
    data = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels", "masks"))
    copy_paste = CopyPasteTransform(p=0.5, scale_range=(0.5, 2.0))
    return DataLoader(data, batch_size=4, shuffle=True, num_workers=workers, collate_fn=copy_paste.collate)


def show(images: str, annotations: str) -> None:
    torch.manual_seed(0)
    for pixels, targets in loader(images, annotations):
        kinds = [type(values).__name__ for values in (pixels[0], targets[0]["boxes"], targets[0]["masks"])]
        print(f"{sum(len(target['labels']) for target in targets)} objects as {', '.join(kinds)}")


if __name__ == "__main__":
    files = [click.Argument([name], type=click.Path(exists=True)) for name in ("images", "annotations")]
    click.Command(None, callback=show, params=files, help=__doc__, no_args_is_help=True)()
