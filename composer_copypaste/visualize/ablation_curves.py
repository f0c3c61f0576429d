"""Figures of an ablation: differences with their intervals, and AP over steps and over the number of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

COLORS = ("#2686C9", "#D55E00", "#009E73", "#CC79A7", "#C98A00", "#56B4E9", "#A06CD5")
"""Seen on light and on dark."""
BASELINE_COLOR = "#888888"
GAIN_COLOR, LOSS_COLOR, UNCLEAR_COLOR = "#009E73", "#D55E00", "#888888"
MARKERS = "osD^v<>PX*"
LABEL_WIDTH = 24
"""Longer names of runs go on in the next line."""


@dataclass(frozen=True)
class Interval:
    """A value and its interval, in points of AP, with a label."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """The scores of a run at a number of steps or of images: the mean of the seeds, and each of them."""

    x: float | int
    mean: float
    seeds: Sequence[float]


def plot_differences(intervals: Sequence[Interval], x_label: str) -> Figure:
    """Each difference with its interval, one below the other; 0 is marked."""
    labels = [_wrap(interval.label) for interval in intervals]
    heights = [1 + 0.75 * label.count("\n") for label in labels]
    rows = [sum(heights[:number]) + height / 2 for number, height in enumerate(heights)]
    figure = Figure(figsize=(5.2, 0.8 + 0.27 * sum(heights)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    for row, interval in zip(rows, intervals, strict=True):
        color = UNCLEAR_COLOR
        if interval.low > 0 or interval.high < 0:
            color = GAIN_COLOR if interval.low > 0 else LOSS_COLOR
        axes.plot([interval.low, interval.high], [row, row], color=color, linewidth=2.5)
        axes.plot([interval.value], [row], "o", color=color, markersize=6)
    axes.set_yticks(rows, labels)
    axes.set_ylim(sum(heights), 0)
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    _style(axes, grid="x")
    return figure


def _wrap(label: str) -> str:
    """The label in lines that end after words, or after underscores."""
    return fill(label.replace("_", "_ "), LABEL_WIDTH).replace("_ ", "_")


def plot_over_steps(runs: Mapping[str, Sequence[Point]], baseline: str, title: str, score: str) -> Figure:
    """The scores of each run over the number of batches: the mean of the seeds, and each seed as a thin line.

    ``score`` names them, such as "mask AP".
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize="medium")
    for name, points in runs.items():
        color, marker = _look(name, list(runs), baseline)
        steps = [point.x for point in points]
        for seed in zip(*(point.seeds for point in points), strict=True):
            axes.plot(steps, seed, color=color, linewidth=0.8, alpha=0.35)
        axes.plot(steps, [point.mean for point in points], color=color, marker=marker, markersize=4, label=name)
    axes.set_xlabel("batches")
    axes.set_ylabel(score)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _style(axes)
    _add_legend(figure, axes)
    return figure


def plot_over_images(
    runs: Mapping[str, Sequence[Point]],
    baseline: str,
    ticks: Mapping[float, str],
    needed: Sequence[tuple[str, float, float, float]],
    score: str,
) -> Figure:
    """The scores of each run over the number of training images, on a logarithmic axis.

    Args:
        runs: the points of each run, ascending.
        baseline: the name of the run that the others are compared with.
        ticks: what is written below each number of images.
        needed: the run, its number of images, its AP, and the number at which the baseline reaches this AP: a
            horizontal line joins them.
        score: what the scores are, such as "mask AP".
    """
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for name, points in runs.items():
        color, marker = _look(name, list(runs), baseline)
        for point in points:
            axes.plot([point.x] * len(point.seeds), point.seeds, ".", color=color, markersize=4, alpha=0.6)
        images, means = [point.x for point in points], [point.mean for point in points]
        axes.plot(images, means, color=color, marker=marker, markersize=5, label=name)
    for name, start, height, end in needed:
        color, _ = _look(name, list(runs), baseline)
        axes.annotate(
            "",
            (end, height),
            (start, height),
            arrowprops={"arrowstyle": "->", "color": color, "linestyle": ":", "shrinkA": 4, "shrinkB": 0},
        )
    axes.set_xlabel("training images (logarithmic axis)")
    axes.set_ylabel(score)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), list(ticks.values()))
    _style(axes)
    _add_legend(figure, axes)
    return figure


def _look(name: str, names: Sequence[str], baseline: str) -> tuple[str, str]:
    """The color and the marker of a run; the baseline's are its own."""
    if name == baseline:
        return BASELINE_COLOR, "o"
    number = [other for other in names if other != baseline].index(name)
    return COLORS[number % len(COLORS)], MARKERS[(1 + number) % len(MARKERS)]


def _style(axes: Axes, grid: Literal["both", "x"] = "both") -> None:
    axes.grid(axis=grid, color="#888888", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    wrapped = [_wrap(label) for label in labels]
    columns = 2 if max(map(len, wrapped), default=0) > 12 else 3
    rows = -(-len(wrapped) // columns)
    figure.set_figheight(figure.get_figheight() + 0.22 * rows)
    figure.legend(handles, wrapped, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
