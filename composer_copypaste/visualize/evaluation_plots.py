"""Plots of an evaluation: precision over recall and over scores, AP by size, what errors cost, confused categories.

What is black takes the color of the page's text, light or dark.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

from composer_copypaste.visualize.curves import COLORS
from composer_copypaste.visualize.object_plots import label_axes

CELL_COLOR = "#0072B2"
MOST_CELL_NAMES = 24
"""A confusion matrix of more categories has no numbers in its cells."""
NAME_WIDTH = 18
"""Longer names of categories are cut off beside a plot."""


def plot_precision_over_recall(curves: Mapping[str, Float[ndarray, " recalls"]]) -> Figure:
    """A line for each name, over recalls from 0 to 1; the first is black, and wider."""
    figure, axes = _new_plot("recall", "precision")
    for number, (name, precisions) in enumerate(curves.items()):
        color, width = _style(number)
        axes.plot(np.linspace(0, 1, len(precisions)), precisions, color=color, linewidth=width, label=name)
    _limit_to_shares(axes)
    axes.set_xlim(0, 1)
    return _with_legend_below(figure, len(curves))


def plot_over_scores(
    scores: Float[ndarray, " n"], shares: Mapping[str, Float[ndarray, " n"]], chosen: float | None
) -> Figure:
    """Shares over the lowest score that is kept, with a dashed line at the chosen one."""
    figure, axes = _new_plot("lowest score that is kept", "")
    for number, (name, values) in enumerate(shares.items()):
        color, width = _style(number)
        axes.plot(scores, values, color=color, linewidth=width, label=name)
    if chosen is not None:
        axes.axvline(chosen, color="grey", linewidth=1, linestyle="--")
    _limit_to_shares(axes)
    axes.set_xlim(0, max(1.0, float(scores.max(initial=0))))
    return _with_legend_below(figure, len(shares))


def plot_bars(groups: Mapping[str, Mapping[str, float]], x: str) -> Figure:
    """Horizontal bars with their numbers: for each row, one of each group; NaN has no bar."""
    rows = list(next(iter(groups.values())))
    figure, axes = _new_plot(x, "", height=1.1 + 0.3 * len(rows) * max(1.4, len(groups)) / 1.4)
    thickness = 0.8 / len(groups)
    for number, (name, values) in enumerate(groups.items()):
        places = np.arange(len(rows)) + (number + 0.5) * thickness - 0.4
        lengths = np.array([values[row] for row in rows], dtype=float)
        axes.barh(places, np.nan_to_num(lengths), thickness * 0.9, color=COLORS[number], label=name)
        for place, length in zip(places.tolist(), lengths.tolist(), strict=True):
            text = "-" if np.isnan(length) else f"{length:.1f}"
            axes.annotate(text, (np.nan_to_num(length), place), (3, 0), textcoords="offset points", va="center", size=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    return _with_legend_below(figure, len(groups)) if len(groups) > 1 else figure


def plot_confusion(counts: Int64[ndarray, "rows columns"], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """A matrix of counts; a cell is the darker, the larger its share of the row."""
    height, width = counts.shape
    figure = Figure(figsize=(2.2 + 0.42 * width, 1.7 + 0.34 * height), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    for row, column in np.argwhere(counts).tolist():
        opacity = 0.08 + 0.62 * shares[row, column]
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=CELL_COLOR, alpha=opacity, linewidth=0))
        if width <= MOST_CELL_NAMES:
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_xticks(range(width), [_cut(name) for name in columns], rotation=90, fontsize=8)
    axes.set_yticks(range(height), [_cut(name) for name in rows], fontsize=8)
    axes.set_xlabel("detected as")
    axes.set_ylabel("object is")
    axes.tick_params(length=0)
    axes.spines[:].set_color("grey")
    return figure


def _cut(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}\u2026"


def _style(number: int) -> tuple[str, float]:
    return ("black", 2.2) if number == 0 else (COLORS[(number - 1) % len(COLORS)], 1.5)


def _limit_to_shares(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)


def _new_plot(x: str, y: str, height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, height), layout="constrained")
    axes = figure.subplots()
    label_axes(axes, x, y)
    return figure, axes


def _with_legend_below(figure: Figure, count: int) -> Figure:
    figure.legend(loc="outside upper left", ncols=2 if count > 1 else 1, fontsize=9)
    return figure
