"""Cost of copy-paste over the number of objects and over the side of images: a table, and curves as a PNG.

    python benchmarks/curves.py [--rounds 3] [--output docs/results/cost.png]

Batches of two images on one CPU thread, without jitter: 1 to 500 objects on images of 512 pixels, and 20 objects on
images of 256 to 2048. The implementations are those of ``peers.py``; packages that are not installed are left out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from batches import Case, draw_batch
from measure import best_seconds, keep_freed_memory
from peers import COPY, CUT_OUTS, OURS, all_ways
from tabulate import tabulate

IMAGES = 2
OBJECTS, SIDE = (1, 5, 20, 100, 500), 512
SIDES, COUNT = (256, 512, 1024, 2048), 20

Curve = dict[str, float]
"""Milliseconds of each implementation."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="best of this many rounds (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs/results/cost.png"), help="default: %(default)s")
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS, help="numbers of objects")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="sides of images")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    by_objects = {count: measure(Case(IMAGES, SIDE, count), options.rounds) for count in options.objects}
    by_side = {side: measure(Case(IMAGES, side, COUNT), options.rounds) for side in options.sides}
    print_table(f"objects on each of {IMAGES} images of {SIDE} x {SIDE}", by_objects)
    print_table(f"side of {IMAGES} images with {COUNT} objects each", by_side)
    draw(by_objects, by_side, options.output)
    print(f"curves: {options.output}")


def measure(case: Case, rounds: int) -> Curve:
    """The milliseconds of each implementation without jitter."""
    ways, _ = all_ways(draw_batch(case, torch.device("cpu")))
    chosen = {name: way for name, way in ways.items() if "jitter" not in name or name == OURS}
    return {name: 1e3 * took for name, took in best_seconds(chosen, rounds).items()}


def print_table(title: str, curves: dict[int, Curve]) -> None:
    """Milliseconds, and in brackets the ratio to a plain copy."""
    names = list(next(iter(curves.values())))
    rows = [
        [name, *(f"{rounded(curve[name])} ({rounded(curve[name] / curve[COPY])})" for curve in curves.values())]
        for name in names
    ]
    print(tabulate(rows, headers=[title, *map(str, curves)], tablefmt="github", disable_numparse=True), end="\n\n")


def rounded(number: float) -> str:
    """Two digits, and those before the point."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def draw(by_objects: dict[int, Curve], by_side: dict[int, Curve], output: Path) -> None:
    """Draw both as curves, with logarithmic axes."""
    figure, plots = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    labels = f"objects per image ({SIDE} x {SIDE})", f"side of images ({COUNT} objects)"
    for plot, curves, label in zip(plots, (by_objects, by_side), labels, strict=True):
        for name in next(iter(curves.values())):
            width = 2.5 if name in (COPY, OURS, CUT_OUTS) else 1
            plot.plot(list(curves), [curve[name] for curve in curves.values()], marker="o", linewidth=width, label=name)
        plot.set(xscale="log", yscale="log", xlabel=label, xticks=list(curves), xticklabels=list(map(str, curves)))
        plot.minorticks_off()
        plot.grid(alpha=0.3)
    plots[0].set_ylabel(f"milliseconds for {IMAGES} images, one CPU thread")
    plots[1].legend(fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
