"""Compare copy-paste with other implementations and a plain copy, on the same batches in one process.

    python benchmarks/peers.py [--rounds 5] [--case 8x512x20]

A case is images x side x objects per image. Everything runs on the GPU if there is one, or else on one CPU thread.
Those of other packages are included if they are installed: ``pip install kornia ultralytics albumentationsx mayaku``.

The implementations:

- plain copy: ``clone`` of images and masks, the least that an implementation with new tensors has to do.
- ours: images, masks, boxes, areas, labels; the first without jitter, the second with the paper's (0.1-2.0, flip).
- ours, cut-outs: the same with masks as ``CompactMasks``, in and out.
- torchvision's: the simple copy-paste of its reference scripts, rewritten from its description, without blending and
  without resizing (all images have the same size). It pastes about 63 % of the source's objects (indices are drawn with
  replacement), and ours is set to paste the same number.
- Kornia's ``RandomTransplantation``: one object per image, on a map of ids (one plane; the others keep one per
  object) and float images (it takes no uint8); no boxes, areas or labels.
- Ultralytics' ``CopyPaste`` ("mixup"): image by image on the host, NumPy arrays and outlines; pastes all objects
  that overlap less than 30 % with others, and does not cut covered parts off the objects below. It makes no masks: its
  loader draws all of them from the outlines later; the second row includes that (at full size, a plane per object).
- AlbumentationsX' ``CopyAndPaste``: image by image on the host; pastes the objects that it is given, here as many as
  ours, at random places; cuts the masks of those below, whose boxes stay as they were.
- mayaku's ``CopyPaste``: image by image on the host, masks as run lengths, which it decodes and encodes. It reads image
  files; here it gets arrays.
"""

import argparse
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from batches import Batch, Case, draw_batch
from measure import Way, best_seconds, keep_freed_memory, peak_bytes
from numpy import ndarray
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import masks_to_boxes

from composer_copypaste import CompactMasks, CopyPasteSettings, copypaste_batch

CASES = ("2x256x5", "4x512x10", "8x512x20", "2x1024x20")
GPU_CASE = "16x1024x20"
SHARE = 0.632
"""Fraction of n objects that n draws with replacement choose: 1 - 1/e."""
UNJITTERED = CopyPasteSettings(p=1.0, p_instance=SHARE, scale_range=(1.0, 1.0), p_flip=0.0)
JITTERED = CopyPasteSettings(p=1.0, p_instance=SHARE)

COPY, TORCHVISION = "plain copy", "torchvision's algorithm"
OURS, CUT_OUTS = "ours, no jitter", "ours, cut-outs"

Target = dict[str, Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=5, help="take the best of this many rounds (default: %(default)s)"
    )
    parser.add_argument("--case", action="append", type=Case.parse, help="images x side x objects, such as 8x512x20")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    default = [*CASES, GPU_CASE] if device.type == "cuda" else CASES
    place = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
    print(f"torch {torch.__version__}, {place}, best of {options.rounds} rounds")
    for case in options.case or map(Case.parse, default):
        compare(case, device, options.rounds)


def compare(case: Case, device: torch.device, rounds: int) -> None:
    """Measure all implementations on one batch and print a table."""
    batch = draw_batch(case, device)
    ways, missing = all_ways(batch)
    seconds = best_seconds(ways, rounds)
    print(f"\n{case.images} images of {case.side} x {case.side} with {case.objects} objects each")
    print(f"{'':24}{'ms':>9}{'images/s':>11}{'x copy':>9}{'x torchvision':>15}{'peak MiB':>11}{'peak / copy':>13}")
    memory = {name: peak_bytes(way) for name, way in ways.items()}
    for name, took in seconds.items():
        speed = f"{took * 1e3:9.2f}{case.images / took:11.0f}"
        ratios = f"{took / seconds[COPY]:9.2f}{seconds[TORCHVISION] / took:15.2f}"
        print(f"{name:24}{speed}{ratios}{_peak(memory[name], memory[COPY])}")
    if missing:
        print(f"{', '.join(missing)}: not installed (pip install {' '.join(PEERS)})")


def all_ways(batch: Batch) -> tuple[dict[str, Way], list[str]]:
    """All implementations on a batch, and the packages that are not installed."""
    compact = [target | {"masks": CompactMasks.from_dense(target["masks"])} for target in batch.targets]
    ways: dict[str, Way] = {
        COPY: lambda: [batch.images.clone(), *(target["masks"].clone() for target in batch.targets)],
        OURS: lambda: copypaste_batch(batch.images, batch.targets, settings=UNJITTERED),
        "ours, paper's jitter": lambda: copypaste_batch(batch.images, batch.targets, settings=JITTERED),
        CUT_OUTS: lambda: copypaste_batch(batch.images, compact, settings=UNJITTERED),
        "ours, cut-outs, jitter": lambda: copypaste_batch(batch.images, compact, settings=JITTERED),
        TORCHVISION: lambda: torchvision_copy_paste(batch.images, batch.targets),
    }
    missing = []
    for name, prepare in PEERS.items():
        try:
            ways |= prepare(batch)
        except ImportError:
            missing.append(name)
    return ways, missing


def _peak(peak: int | None, copy: int | None) -> str:
    return f"{'-':>11}{'-':>13}" if peak is None or not copy else f"{peak / 2**20:11.1f}{peak / copy:13.2f}"


def torchvision_copy_paste(images: Tensor, targets: Sequence[Target]) -> tuple[list[Tensor], list[Target]]:
    """Each image receives random objects of the image before it, the first image those of the last one."""
    pasted = [paste_as_torchvision(images[i], targets[i], images[i - 1], targets[i - 1]) for i in range(len(images))]
    return [image for image, _ in pasted], [target for _, target in pasted]


def paste_as_torchvision(image: Tensor, target: Target, source_image: Tensor, source: Target) -> tuple[Tensor, Target]:
    """One image and its target, with random objects of a source image of the same size."""
    count = len(source["masks"])
    chosen = torch.randint(count, (count,), device=image.device).unique()
    cover = source["masks"][chosen].any(dim=0).bool()  # any() of uint8 is uint8, for which ~ is no logical not
    image = image * ~cover + source_image * cover
    masks = target["masks"] * ~cover
    area = masks.sum((-1, -2))  # most of the time is spent here and for the boxes
    left = area > 0
    masks = masks[left]
    joined = {"masks": torch.cat([masks, source["masks"][chosen]])}
    joined["boxes"] = torch.cat([masks_to_boxes(masks), source["boxes"][chosen]])
    joined["area"] = torch.cat([area[left].float(), source["area"][chosen]])
    for key in ("labels", "iscrowd"):
        joined[key] = torch.cat([target[key][left], source[key][chosen]])
    flat = joined["boxes"][:, 2:] <= joined["boxes"][:, :2]
    if flat.any():
        joined = {key: values[~flat.any(dim=1)] for key, values in joined.items()}
    return image, {**target, **joined}


def kornia_ways(batch: Batch) -> dict[str, Way]:
    """Kornia's transplantation; its inputs are made beforehand."""
    from kornia.augmentation import RandomTransplantation

    numbers = [torch.arange(1, len(t["masks"]) + 1, device=batch.images.device) for t in batch.targets]
    ids = torch.stack([(t["masks"] * n[:, None, None]).amax(0) for t, n in zip(batch.targets, numbers, strict=True)])
    images = batch.images.float() / 255
    transplant = RandomTransplantation(p=1.0, excluded_labels=[0])
    return {"Kornia's, one object": lambda: transplant(images, ids)}


def ultralytics_ways(batch: Batch) -> dict[str, Way]:
    """Ultralytics' copy-paste of each image; its inputs are made beforehand."""
    import cv2
    from ultralytics.data.augment import CopyPaste
    from ultralytics.data.utils import polygons2masks
    from ultralytics.utils.instance import Instances

    cv2.setNumThreads(1)
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in batch.images.cpu()]
    classes = [target["labels"][:, None].float().cpu().numpy() for target in batch.targets]
    boxes = [target["boxes"].cpu().numpy() for target in batch.targets]

    class Images:
        """The data set from which CopyPaste draws its sources; objects are of Ultralytics' own type."""

        def __len__(self) -> int:
            return len(arrays)

        def get_image_and_label(self, i: int) -> dict[str, object]:
            instances = Instances(boxes[i], batch.outlines[i], bbox_format="xyxy", normalized=False)
            return {"img": arrays[i], "cls": classes[i], "instances": instances}

    copy_paste = CopyPaste(Images(), p=1.0, mode="mixup")

    def paste() -> list[dict[str, Any]]:
        return [copy_paste(Images().get_image_and_label(i)) for i in range(len(arrays))]

    def paste_and_draw() -> list[ndarray]:
        return [polygons2masks(each["img"].shape[:2], list(each["instances"].segments), color=1) for each in paste()]

    return {"Ultralytics', no masks": paste, "Ultralytics', masks": paste_and_draw}


def albumentationsx_ways(batch: Batch) -> dict[str, Way]:
    """AlbumentationsX' copy-paste of each image; its inputs are made beforehand."""
    import cv2
    from albumentations import BboxParams, Compose, CopyAndPaste

    cv2.setNumThreads(1)
    boxes = BboxParams(coord_format="pascal_voc", label_fields=["labels"])
    transform, rng = Compose([CopyAndPaste(p=1.0)], bbox_params=boxes), np.random.default_rng(0)
    images = [image.permute(1, 2, 0).contiguous().numpy() for image in batch.images.cpu()]
    fields = [{key: target[key].cpu().numpy() for key in ("masks", "boxes", "labels")} for target in batch.targets]
    donors = [
        [
            {"image": image, "mask": mask, "bbox": box, "bbox_labels": {"labels": label}}
            for mask, box, label in zip(*own.values(), strict=True)
        ]
        for image, own in zip(images, fields, strict=True)
    ]

    def paste(i: int) -> dict[str, Any]:
        own, chosen = fields[i], [donor for donor in donors[i - 1] if rng.random() < SHARE]
        given = {"image": images[i], "masks": own["masks"], "bboxes": own["boxes"], "labels": own["labels"]}
        return transform(**given, copy_paste_metadata=chosen)

    return {"AlbumentationsX'": lambda: [paste(i) for i in range(len(images))]}


def mayaku_ways(batch: Batch) -> dict[str, Way]:
    """Mayaku's copy-paste of each image; its inputs are made beforehand."""
    from mayaku.data import multi_sample
    from mayaku.structures.boxes import BoxMode

    images = [image.permute(1, 2, 0).contiguous().numpy() for image in batch.images.cpu()]
    records = [
        {
            "file_name": i,
            "annotations": [
                {"segmentation": coco_mask.encode(np.asfortranarray(mask)), "bbox": box, "category_id": label}
                | {"bbox_mode": BoxMode.XYXY_ABS}
                for mask, box, label in zip(
                    target["masks"].cpu().numpy(), target["boxes"].tolist(), target["labels"].tolist(), strict=True
                )
            ],
        }
        for i, target in enumerate(batch.targets)
    ]
    copy_paste, rng = multi_sample.CopyPaste(prob=1.0, paste_fraction=SHARE), np.random.default_rng(0)

    def paste() -> list[dict[str, Any]]:
        with mock.patch.object(multi_sample, "read_image", images.__getitem__):
            return [copy_paste.apply_and_map([records[i], records[i - 1]], dict, rng) for i in range(len(images))]

    return {"mayaku's": paste}


PEERS = {
    "kornia": kornia_ways,
    "ultralytics": ultralytics_ways,
    "albumentationsx": albumentationsx_ways,
    "mayaku": mayaku_ways,
}
"""Packages by their names on PyPI, and what to measure of each."""

if __name__ == "__main__":
    main()
