"""Histograms of a batch after copy-paste: how large its objects are, and which share of them is visible."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from composer_copypaste.functional.info import PasteInfo

SIZE_EDGES = (0.0, 8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 256.0, 512.0, math.inf)
"""Edges of the histogram of sizes, in pixels; 32 and 96 divide COCO's small, medium and large objects."""
VISIBLE_EDGES = tuple(number / 10 for number in range(11))
COLUMNS = ("quantity", "from", "to", "own objects", "pasted objects")
KINDS = ("own", "pasted")
COLORS = ("#56B4E9", "#D55E00")


@dataclass(frozen=True, eq=False)
class PasteHistograms:
    """The sizes and visible shares of a batch's objects, of its images' own and of the pasted ones."""

    size: Float64[ndarray, " k"]
    """The side of a square as large as each object's box, in pixels."""

    visible: Float64[ndarray, " k"]
    pasted: Bool[ndarray, " k"]

    @classmethod
    def of_info(cls, info: PasteInfo) -> "PasteHistograms":
        """The histograms of the objects of a batch after copy-paste."""
        boxes = info.boxes.numpy()
        size = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        return cls(size, info.visible.numpy(), info.pasted.numpy())

    def scalars(self) -> dict[str, float]:
        """The median size and the mean visible share of both kinds of objects, as far as there are any."""
        found = {}
        for kind, chosen in zip(KINDS, (~self.pasted, self.pasted), strict=True):
            if chosen.any():
                found[f"size_median/{kind}"] = float(np.median(self.size[chosen]))
                found[f"visible_mean/{kind}"] = float(self.visible[chosen].mean())
        return found

    def rows(self) -> list[list[str | int | float | None]]:
        """The number of objects in each bin, as rows of ``COLUMNS``; a bin holds its lower edge. None: without end."""
        rows: list[list[str | int | float | None]] = []
        for name, values, edges in (("size", self.size, SIZE_EDGES), ("visible", self.visible, VISIBLE_EDGES)):
            counts = [_counts(values[chosen], edges) for chosen in (~self.pasted, self.pasted)]
            ends = [edge if math.isfinite(edge) else None for edge in edges[1:]]
            bins = zip(edges[:-1], ends, *(each.tolist() for each in counts), strict=True)
            rows += [[name, *numbers] for numbers in bins]
        return rows

    def draw(self) -> UInt8[ndarray, "h w 3"]:
        """Both histograms side by side, RGB."""
        figure = Figure(figsize=(9, 3.4), dpi=100, layout="constrained")
        shown = (
            (self.size, SIZE_EDGES, "size of objects, pixels"),
            (self.visible, VISIBLE_EDGES, "visible share of objects"),
        )
        for axes, (values, edges, title) in zip(figure.subplots(1, 2), shown, strict=True):
            places = np.arange(len(edges) - 1)
            for shift, kind, color, chosen in zip((-0.2, 0.2), KINDS, COLORS, (~self.pasted, self.pasted), strict=True):
                axes.bar(places + shift, _counts(values[chosen], edges), 0.4, color=color, label=kind)
            axes.set_xticks(places, [f"{edge:g}" for edge in edges[:-1]])
            axes.set_title(title)
            axes.set_xlabel("from, and below the next")
            axes.set_ylabel("objects")
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _counts(values: Float64[ndarray, " k"], edges: Sequence[float]) -> Int64[ndarray, " bins"]:
    """The number of values from each edge on, below the next; the last bin holds its upper edge too."""
    return np.histogram(values, np.array(edges))[0]
