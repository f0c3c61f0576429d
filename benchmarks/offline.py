"""Compare how fast offline data sets are written: ``copypaste augment``, and the loop that people write.

    python benchmarks/offline.py [--case 64x512x20] [--images DIR --annotations FILE]

A case is images x side x objects per image, drawn here and saved as JPEG. With --images and --annotations, a data set
is read instead. Both ways read the same files, paste about the same number of objects, and write JPEG of quality 95
and a COCO file, in one process. Given are milliseconds of processor time for each new image.

- The loop: each image is decoded by Pillow, its masks are drawn by pycocotools, and objects of the image before it are
  pasted by torchvision's reference algorithm (``peers.py``, without resizing). The image is encoded by Pillow, each
  mask by pycocotools.
- Ours: all of ``augment_data_set``, first without resizing, as the loop; then with the paper's jitter; then rotated
  through 360 degrees and resized by 0.3 to 3. Decoded images are kept, if all fit into 256 MB.

"The rest" of ours is checks, drawing plans, records and annotations. "As fast" compares all, "decoded" all but decoding
images and drawing their masks, as if a loop had these in memory.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from batches import Case, draw_batch
from measure import keep_freed_memory
from peers import paste_as_torchvision
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor
from torch.nn import functional

from composer_copypaste.runs.augment import images as offline_images
from composer_copypaste.runs.augment import run as augment
from composer_copypaste.settings import AugmentSettings, OfflineCopyPasteSettings

CASES = ("128x256x5", "64x512x10", "64x512x20", "32x1024x20")
QUALITY = 95
SHARE = 0.632
"""Fraction of n objects that n draws with replacement choose, as in torchvision's algorithm: 1 - 1/e."""
JITTER: dict[str, dict[str, Any]] = {
    "ours, no jitter": {"scale_range": (1.0, 1.0), "p_flip": 0.0},
    "ours, the paper's": {},
    "ours, rotated": {"rotation": 180, "scale_range": (0.3, 3.0)},
}
"""Settings of each of our ways."""
PARTS = ("decode", "draw masks", "paste", "encode image", "encode masks", "the rest")
LOOP = "the loop"

Seconds = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", type=Case.parse, help="images x side x objects, such as 64x512x20")
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--annotations", type=Path, help="their COCO annotations")
    parser.add_argument(
        "--rounds", type=int, default=3, help="take the best of this many rounds (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.images is not None:
        compare(str(options.annotations), options.images, options.annotations, options.rounds)
        return
    for case in options.case or map(Case.parse, CASES):
        with tempfile.TemporaryDirectory() as folder:
            compare(str(case), *draw_data_set(case, Path(folder)), options.rounds)


def compare(name: str, images: Path, annotations: Path, rounds: int) -> None:
    """Measure both ways on one data set, and print a table."""
    ways: dict[str, Callable[[Path], Seconds]] = {LOOP: lambda output: time_loop(images, annotations, output)}
    for way in JITTER:
        ways[way] = partial(time_ours, images, annotations, JITTER[way])
    found: dict[str, list[Seconds]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                found[way].append(run(Path(folder) / "out"))
    best = {way: min(seconds, key=lambda each: sum(each.values())) for way, seconds in found.items()}
    print(f"\n{name}: milliseconds for each new image\n{'':18}{''.join(f'{part:>14}' for part in PARTS)}", end="")
    print(f"{'all':>14}{'as fast':>10}{'decoded':>10}")
    for way, seconds in best.items():
        print(f"{way:18}" + "".join(f"{seconds.get(part, 0) * 1e3:14.2f}" for part in PARTS), end="")
        whole = sum(best[LOOP].values()) / sum(seconds.values())
        decoded = _without_decoding(best[LOOP]) / _without_decoding(seconds)
        print(f"{sum(seconds.values()) * 1e3:14.2f}{whole:9.1f}x{decoded:9.1f}x")


def _without_decoding(seconds: Seconds) -> float:
    return sum(took for part, took in seconds.items() if part not in ("decode", "draw masks"))


# ---- data


def draw_data_set(case: Case, folder: Path) -> tuple[Path, Path]:
    """Draw images that compress about as well as photos, and their annotations; the folder and the file."""
    (folder / "images").mkdir()
    images, annotations = [], []
    for number in range(case.images):
        batch = draw_batch(Case(1, case.side, case.objects), torch.device("cpu"), seed=number)
        name = f"{number}.jpg"
        Image.fromarray(_photo(batch.images[0], number)).save(folder / "images" / name, quality=QUALITY)
        images.append({"id": number, "file_name": name, "height": case.side, "width": case.side})
        for points, area in zip(batch.outlines[0], batch.targets[0]["area"].tolist(), strict=True):
            (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
            outline = [round(coordinate, 2) for coordinate in points.ravel().tolist()]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "area": area,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": [outline]}
            )  # fmt: skip
    file = folder / "annotations.json"
    categories = [{"id": 1, "name": "thing"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder / "images", file


def _photo(noise: Tensor, seed: int) -> np.ndarray:
    """Soft shapes with a little noise: about 2 bits a pixel as JPEG, as photos have."""
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand((1, 3, noise.shape[1] // 16, noise.shape[2] // 16), generator=generator)
    soft = functional.interpolate(soft, size=noise.shape[1:], mode="bicubic")[0] * 255
    return (soft + (noise.float() - 127) / 32).clamp(0, 255).byte().permute(1, 2, 0).numpy()


# ---- the two ways


class _Clock:
    """Adds up the processor time of parts; that of a part inside another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: Seconds = defaultdict(float)
        self._inside = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside for a part."""
        outer, self._inside, start = self._inside, 0.0, time.process_time()
        yield
        took = time.process_time() - start
        self.seconds[name] += took - self._inside
        self._inside = outer + took

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls count for a part."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return call

    def per_image(self, whole: float, images: int) -> Seconds:
        """Seconds of each part for each image; what is left of all is "the rest"."""
        rest = whole - sum(self.seconds.values())
        return {part: took / images for part, took in {**self.seconds, PARTS[-1]: rest}.items()}


def time_loop(images: Path, annotations: Path, output: Path) -> Seconds:
    """Write an offline data set by the loop that people write; seconds of each part for each new image."""
    output.mkdir()
    clock, start = _Clock(), time.process_time()
    coco = COCO(annotations)
    entries: list[dict[str, object]] = []
    before = _read(coco, coco.dataset["images"][-1], images, _Clock())  # as a loader that prefetches
    for number, image in enumerate(coco.dataset["images"]):
        pixels, target = _read(coco, image, images, clock)
        if before[0].shape == pixels.shape and len(before[1]["masks"]) and len(target["masks"]):
            with clock.part("paste"):
                new, after = paste_as_torchvision(pixels, target, *before)
        else:
            new, after = pixels, target
        with clock.part("encode image"):
            Image.fromarray(new.permute(1, 2, 0).contiguous().numpy()).save(output / f"{number}.jpg", quality=QUALITY)
        with clock.part("encode masks"):
            for mask, box, label in zip(
                after["masks"].numpy(), after["boxes"].tolist(), after["labels"].tolist(), strict=True
            ):
                rle = coco_mask.encode(np.asfortranarray(mask))
                area, (x1, y1, x2, y2) = float(coco_mask.area(rle)), box
                rle["counts"] = rle["counts"].decode()
                entries.append(
                    {"id": len(entries) + 1, "image_id": number, "category_id": label, "iscrowd": 0, "area": area,
                     "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": rle}
                )  # fmt: skip
        before = pixels, target
    (output / "annotations.json").write_text(json.dumps({"images": coco.dataset["images"], "annotations": entries}))
    return clock.per_image(time.process_time() - start, len(coco.dataset["images"]))


def _read(coco: COCO, image: dict[str, Any], folder: Path, clock: _Clock) -> tuple[Tensor, dict[str, Tensor]]:
    """An image and its detection target."""
    with clock.part("decode"):
        pixels = np.array(Image.open(folder / image["file_name"]).convert("RGB"))
    objects = coco.imgToAnns[image["id"]]
    with clock.part("draw masks"):
        masks = np.array([coco.annToMask(entry) for entry in objects], dtype=np.uint8).reshape(-1, *pixels.shape[:2])
    boxes = torch.tensor([entry["bbox"] for entry in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return torch.from_numpy(pixels).permute(2, 0, 1), {
        "boxes": boxes,
        "labels": torch.tensor([entry["category_id"] for entry in objects], dtype=torch.int64),
        "masks": torch.from_numpy(masks),
        "area": torch.tensor([entry["area"] for entry in objects], dtype=torch.float32),
        "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
    }


def time_ours(images: Path, annotations: Path, jitter: dict[str, Any], output: Path) -> Seconds:
    """Write an offline data set by ``augment_data_set``; seconds of each part for each new image."""
    clock = _Clock()
    settings = AugmentSettings(
        quality=QUALITY, originals="omit", copy_paste=OfflineCopyPasteSettings(p_instance=SHARE, **jitter)
    )
    offline_images.forget_decoded_images()
    patches = [
        patch.object(module, name, clock.timed(part, getattr(module, name)))
        for part, module, name in (
            ("decode", offline_images, "read_image"),
            ("draw masks", offline_images.OutlinedObjects, "masks"),
            ("paste", augment, "make_new_image"),
            ("encode image", offline_images, "encode_and_write"),
            ("encode masks", offline_images, "annotation_fields"),
        )
    ]
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        start = time.process_time()
        data = augment.augment_data_set(output, images, annotations, settings, crowds="ignore")
        return clock.per_image(time.process_time() - start, data.new)


if __name__ == "__main__":
    main()
