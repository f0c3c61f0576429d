"""Plots of a data set's objects: by area, by image and by category; several sets of objects in one plot.

Each plot takes what it draws by name. Of several, the first is drawn in black, the others in colors.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from composer_copypaste.visualize.curves import COLORS

BINS = 30
SMALL_AREA, LARGE_AREA = 32**2, 96**2
"""COCO's limits of small and large objects, in pixels."""


def area_plot(areas: Mapping[str, Float[ndarray, " _n"]]) -> Figure:
    """Number of objects by area in pixels, on a logarithmic axis."""
    figure, axes = _new_plot()
    draw_areas(axes, areas)
    return _with_legend(figure)


def number_plot(numbers: Mapping[str, Int64[ndarray, " _n"]]) -> Figure:
    """Number of images by their number of objects."""
    figure, axes = _new_plot()
    draw_numbers(axes, numbers)
    return _with_legend(figure)


def category_plot(labels: Mapping[str, Int64[ndarray, " _n"]], names: Sequence[str], most: int = 20) -> Figure:
    """Number of objects by category, for the ``most`` categories with the most objects in the first set."""
    count = min(most, len(names))
    figure, axes = _new_plot(height=1.2 + 0.22 * count * max(2, len(labels)) / 2)
    draw_categories(axes, labels, names, most)
    return _with_legend(figure)


# ---- on given axes


def draw_areas(axes: Axes, areas: Mapping[str, Float[ndarray, " _n"]]) -> None:
    """Number of objects by area in pixels, on a logarithmic axis; dashed lines are COCO's limits."""
    label_axes(axes, "area in pixels", "objects")
    drawn = {name: values.clip(1) for name, values in areas.items()}
    everything = np.concatenate([*drawn.values(), np.array([SMALL_AREA / 2, LARGE_AREA * 2])])  # both limits are seen
    bins = np.geomspace(everything.min(), everything.max() * 1.001, BINS + 1)
    axes.set_xscale("log")
    _draw_steps(axes, drawn, bins)
    for limit in (SMALL_AREA, LARGE_AREA):
        axes.axvline(limit, color="grey", linewidth=0.8, linestyle="--")


def draw_numbers(axes: Axes, numbers: Mapping[str, Int64[ndarray, " _n"]]) -> None:
    """Number of images by their number of objects."""
    label_axes(axes, "objects in an image", "images")
    most = max(int(values.max(initial=1)) for values in numbers.values())
    width = -(-(most + 1) // BINS)
    _draw_steps(axes, numbers, np.arange(0, most + width + 1, width) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_categories(
    axes: Axes, labels: Mapping[str, Int64[ndarray, " _n"]], names: Sequence[str], most: int = 20
) -> None:
    """Number of objects by category, for the ``most`` categories with the most objects in the first set."""
    label_axes(axes, "objects", "")
    counts = {name: np.bincount(values, minlength=len(names) + 1)[1:] for name, values in labels.items()}
    first = next(iter(counts.values()))
    order = np.argsort(-first, kind="stable")[:most]
    thickness = 0.8 / len(counts)
    places = np.arange(len(order))
    for number, (color, (name, values)) in enumerate(zip(_colors(counts), counts.items(), strict=True)):
        axes.barh(places + (number + 0.5) * thickness - 0.4, values[order], thickness, color=color, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks(places, [names[label] for label in order])
    axes.invert_yaxis()


def draw_scores(axes: Axes, scores: Float[ndarray, " _n"]) -> None:
    """Number of detections by their score."""
    label_axes(axes, "score", "detections")
    low, high = float(scores.min(initial=0)), float(scores.max(initial=1))
    _draw_steps(axes, {"": scores}, np.linspace(low, high, BINS + 1))


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Name both axes, with a faint grid behind what is drawn."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _new_plot(height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.5, height), layout="constrained")
    return figure, figure.subplots()


def _with_legend(figure: Figure) -> Figure:
    figure.legend(loc="outside upper left", ncols=2, fontsize=9)
    return figure


def _draw_steps(axes: Axes, series: Mapping[str, ndarray], bins: ndarray) -> None:
    for color, (name, values) in zip(_colors(series), series.items(), strict=True):
        counts, _ = np.histogram(values, bins)
        axes.stairs(counts, bins, color=color, linewidth=1.8, label=name)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)


def _colors(series: Mapping[str, object]) -> list[str]:
    if len(series) == 1:
        return [COLORS[0]]
    return ["black", *(COLORS[number % len(COLORS)] for number in range(len(series) - 1))]
