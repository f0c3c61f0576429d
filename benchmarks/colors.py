"""What the settings of seams, colors and transforms of pasted objects cost, beside painting them over.

``python benchmarks/colors.py`` prints how many times as long a call of ``copypaste_batch`` takes with each setting, and
seconds for each pasted object. Objects keep their size, each image receives all of another one. It runs on a GPU where
there is one, else on one thread of the processor.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from batches import Case, draw_batch
from measure import best_seconds, keep_freed_memory
from tabulate import tabulate
from torchvision.transforms import v2

from composer_copypaste import copypaste_batch

PLAIN = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0)}
SETTINGS: dict[str, dict[str, object]] = {
    "painted over": {},
    "blend_sigma=2": {"blend_sigma": 2.0},
    "blend_sigma=(0, 2)": {"blend_sigma": (0.0, 2.0)},
    "brightness=0.3": {"brightness": 0.3},
    'color_transfer="reinhard"': {"color_transfer": "reinhard"},
    'color_transfer="histogram"': {"color_transfer": "histogram"},
    'blend_mode="poisson"': {"blend_mode": "poisson"},
    "object_transform: nothing": {"object_transform": lambda image, alpha: (image, alpha)},
    "object_transform: RandomPerspective": {"object_transform": v2.RandomPerspective(p=1.0)},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=Case.parse, default="8x512x20", help="images x side x objects")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = draw_batch(options.case, device)
    ways = {
        name: partial(copypaste_batch, batch.images, batch.targets, **(PLAIN | settings))
        for name, settings in SETTINGS.items()
    }
    seconds, objects = best_seconds(ways, options.rounds), options.case.images * options.case.objects
    plain = next(iter(seconds.values()))
    rows = [(name, 1000 * found, found / plain, 1000 * (found - plain) / objects) for name, found in seconds.items()]
    headers = [str(options.case), "ms", "times", "ms more an object"]
    print(f"{device}, torch {torch.__version__}")
    print(tabulate(rows, headers, floatfmt=("", ".1f", ".1f", ".2f")))


if __name__ == "__main__":
    main()
