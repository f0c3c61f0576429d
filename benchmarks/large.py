"""Time and memory for large inputs: many objects, large images, many class ids, full banks and pools.

    python benchmarks/large.py [--case objects] [--case images]

Each case runs in a process of its own, on one CPU thread. Memory is the peak in addition to the inputs. It includes
the result, whose size is printed next to it: the peak cannot be smaller.

- objects: two images of 256 x 256 with 4,000 objects of 5 x 5 pixels each.
- places: the same with 1,000 objects, each at a random place that ``max_overlap`` allows.
- images: two images of 3000 x 4000 with 40 objects each.
- soft seams: the same, with ``blend_sigma`` and changed colors.
- boxes: the same images, without masks.
- sheet: the sheet of two such images with 80 objects each.
- resize: resizing of these images by Mask R-CNN before it trains on them.
- class ids: two maps of 512 x 512 with 4,096 ids, in blocks; and scattered.
- bank: a batch of two small images with a bank of 4,096 objects, one per image; and the numbers that are logged.
- pool: a read of one of 20,000 cut-outs that are all in memory.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from measure import Way, peak_bytes
from torch import Tensor
from torch.utils._pytree import tree_leaves

from composer_copypaste import InstanceBank, MaskRCNN, copypaste_batch
from composer_copypaste.data.cutouts import CutOut, CutOutPool
from composer_copypaste.visualize.draw import training_sheet

Batch = tuple[Tensor, list[dict[str, Tensor]]]

EVERYTHING = {"p": 1.0, "p_instance": 1.0}
IN_PLACE = EVERYTHING | {"scale_range": (1.0, 1.0), "p_flip": 0.0}
PLACES = IN_PLACE | {"jitter": "instance", "placement": "random", "max_overlap": 0.3}
BANK_SIZE = 4096
SOFT = EVERYTHING | {"blend_sigma": 2.0, "brightness": 0.3, "saturation": 0.3}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="default: all of them")
    cases = parser.parse_args(arguments).case or list(CASES)
    if len(cases) > 1:
        for case in cases:
            subprocess.run([sys.executable, __file__, "--case", case], check=True)
        return
    torch.set_num_threads(1)
    way = CASES[cases[0]]()
    copypaste_batch(*squares(3, (64, 64), (5, 9)), p=1.0)  # compiles the kernels
    peak = peak_bytes(way)
    start = time.perf_counter()
    result = way()
    seconds = time.perf_counter() - start
    memory = "-" if peak is None else f"{peak / 1e6:.0f}"
    print(f"{cases[0]:22}{1e3 * seconds:10.2f} ms{memory:>8} MB, result {nbytes(result) / 1e6:.0f} MB", flush=True)


def squares(n: int, size: tuple[int, int], sides: tuple[int, int]) -> Batch:
    """Two images with ``n`` squares each, whose sides lie in the range ``sides``."""
    rng, (height, width) = np.random.default_rng(0), size
    targets = []
    for _ in range(2):
        side = rng.integers(*sides, n, endpoint=True)
        x, y = (np.floor(rng.random(n) * (limit - side)).astype(int) for limit in (width, height))
        masks = torch.zeros((n, height, width), dtype=torch.uint8)
        for mask, left, top, length in zip(masks, x, y, side, strict=True):
            mask[top : top + length, left : left + length] = 1
        boxes = torch.from_numpy(np.stack([x, y, x + side, y + side], axis=1)).float()
        targets.append({"boxes": boxes, "labels": torch.ones(n, dtype=torch.int64), "masks": masks})
    return torch.from_numpy(rng.integers(0, 256, (2, 3, height, width), dtype=np.uint8)), targets


def pasting(batch: tuple[object, object], **settings: object) -> Way:
    """Copy-paste of a batch; every call draws the same."""
    return lambda: copypaste_batch(*batch, generator=torch.Generator().manual_seed(0), **settings)  # type: ignore[misc]


def large(n: int = 40) -> Batch:
    return squares(n, (3000, 4000), (200, 1200))


def boxes() -> Way:
    images, targets = large()
    return pasting((images, [{"boxes": t["boxes"], "labels": t["labels"]} for t in targets]), **EVERYTHING)


def sheet() -> Way:
    images, targets = large(80)
    return lambda: training_sheet(images, targets, ["square"])


def resize() -> Way:
    images, targets = large(80)
    transform = MaskRCNN(num_classes=2, backbone="small").train().module.transform
    return lambda: transform([image.float() / 255 for image in images], targets)[1]


def class_ids(scattered: bool) -> Way:
    ids = torch.arange(4096).view(64, 64).repeat_interleave(8, 0).repeat_interleave(8, 1).repeat(2, 1, 1)
    if scattered:
        ids = torch.from_numpy(np.random.default_rng(0).integers(0, 4096, (2, 512, 512)))
    return pasting((torch.zeros(2, 3, 512, 512, dtype=torch.uint8), ids), **EVERYTHING, ignore_index=None)


def full_bank() -> InstanceBank:
    bank, (images, targets) = InstanceBank(BANK_SIZE), squares(1, (64, 64), (9, 9))
    while len(bank) < BANK_SIZE:
        copypaste_batch(images, targets, bank=bank, p=0.0)
    return bank


def bank() -> Way:
    return pasting(squares(1, (64, 64), (9, 9)), **EVERYTHING, bank=full_bank())


def bank_log() -> Way:
    full = full_bank()
    return lambda: (len(full), full.nbytes)


def pool() -> Way:
    box, pixels = np.array([0.0, 0, 8, 8]), (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.ones(8, 8).byte())
    cut_outs = [CutOut(label=1, box=box, area=64.0, size=(8, 8), read=lambda window: pixels)] * 20_000
    kept = CutOutPool(cut_outs)
    for number in range(len(kept)):
        kept.read(number)
    return lambda: kept.read(7)


def nbytes(result: object) -> int:
    """The memory of the tensors in a result."""
    return sum(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


CASES: dict[str, Callable[[], Way]] = {
    "objects": lambda: pasting(squares(4000, (256, 256), (5, 5)), **IN_PLACE),
    "places": lambda: pasting(squares(1000, (256, 256), (5, 5)), **PLACES),
    "images": lambda: pasting(large(), **EVERYTHING),
    "soft seams": lambda: pasting(large(), **SOFT),
    "boxes": boxes,
    "sheet": sheet,
    "resize": resize,
    "class ids": lambda: class_ids(scattered=False),
    "class ids, scattered": lambda: class_ids(scattered=True),
    "bank": bank,
    "bank, log": bank_log,
    "pool": pool,
}

if __name__ == "__main__":
    main()
