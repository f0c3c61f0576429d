"""An image of a training: losses, average precision and learning rate over batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from composer_copypaste.files import atomic_write, read_json_lines

Series = tuple[Float[ndarray, " n"], Float[ndarray, " n"]]
"""The batches at which a value was logged, and the values."""
TOTAL = "loss/train/total"
SCORES = {"segm/AP50": "masks, AP50", "segm/AP": "masks, AP", "bbox/AP": "boxes, AP"}
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")


def plot_curves(metrics: Path, png: Path) -> None:
    """Draw the content of ``metrics.jsonl``; a plot says "nothing logged" where there is nothing to draw."""
    save_figure(draw_training(metrics), png)


def save_figure(figure: Figure, png: Path) -> None:
    """Write a figure as a PNG; it is complete whenever it is there."""
    with atomic_write(png) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")


def draw_training(metrics: Path) -> Figure:
    """Losses, scores and learning rate of ``metrics.jsonl`` side by side."""
    series = read_series(metrics)
    figure = Figure(figsize=(16, 5), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3, width_ratios=(5, 5, 3))
    _plot_losses(losses, series)
    _plot_scores(scores, series)
    _plot_rates(rates, series)
    for axes in (losses, scores, rates):
        axes.set_xlabel("batch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", color="grey")
    return figure


def training_figures(metrics: Path) -> list[Figure]:
    """The losses and the scores of ``metrics.jsonl``, a figure each, for a page; none of what is not logged."""
    series = read_series(metrics)
    figures = []
    for plot in (_plot_losses, _plot_scores):
        figure = Figure(figsize=(5, 3.6), layout="constrained")
        axes = figure.subplots()
        plot(axes, series)
        axes.set_xlabel("batch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if axes.lines:
            figures.append(figure)
    return figures


def read_series(metrics: Path) -> dict[str, Series]:
    """The batches and values of each name in ``metrics.jsonl``, without values that were not finite."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in read_json_lines(metrics):
        batch = row.get("batch")
        for name, value in row.items():
            if batch is not None and value is not None:
                found.setdefault(name, []).append((float(batch), float(value)))
    tables = {name: np.array(points, dtype=np.float64) for name, points in found.items()}
    return {name: (table[:, 0], table[:, 1]) for name, table in tables.items()}


def running_mean(values: Sequence[float] | Float[ndarray, " n"], window: int) -> Float[ndarray, " n"]:
    """Running mean over ``window`` values (an odd number), or fewer near both ends."""
    half = window // 2
    sums, counts = (
        np.convolve(row, np.ones(2 * half + 1))[half : half + len(values)] for row in (values, np.ones(len(values)))
    )
    return sums / counts


def _plot_losses(axes: Axes, series: Mapping[str, Series]) -> None:
    """The total loss and its parts: the logged values in a light tone, their running means on top."""
    axes.set_title("training loss")
    parts = sorted(name for name in series if name.startswith("loss/train/") and name != TOTAL)
    names = [TOTAL, *parts] if TOTAL in series else parts
    for name, color in zip(names, ("black", *COLORS * (1 + len(names) // len(COLORS))), strict=False):
        batches, values = series[name]
        smooth = running_mean(values, len(values) // 20)
        label = name.removeprefix("loss/train/").removeprefix("loss_").replace("_", " ")
        axes.plot(batches, values, color=color, alpha=0.18, linewidth=0.8)
        axes.plot(batches, smooth, color=color, linewidth=2.4 if name == TOTAL else 1.8, label=label)
    if names:
        # the first batches, with much larger losses, may be cut off
        highest = max(float(np.quantile(series[name][1], 0.98)) for name in names)
        axes.set_ylim(0, 1.15 * highest if highest > 0 else None)
        axes.legend(frameon=False, ncols=2)


def _plot_scores(axes: Axes, series: Mapping[str, Series]) -> None:
    axes.set_title("average precision on the evaluation set")
    for color, (name, label) in zip(COLORS, SCORES.items(), strict=False):
        if f"metrics/eval/{name}" in series:
            batches, values = series[f"metrics/eval/{name}"]
            axes.plot(batches, values, "o-", color=color, linewidth=2, markersize=5, label=f"{label}: {values[-1]:.3f}")
    if axes.lines:
        axes.set_ylim(0, 1)
        axes.set_xlim(left=0)
        axes.legend(frameon=False, loc="upper left")


def _plot_rates(axes: Axes, series: Mapping[str, Series]) -> None:
    axes.set_title("learning rate")
    names = sorted(name for name in series if name.startswith("lr-"))
    for color, name in zip(COLORS, names, strict=False):
        axes.plot(*series[name], color=color, linewidth=2, label=name.removeprefix("lr-"))
    if names:
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    if len(names) > 1:
        axes.legend(frameon=False)
