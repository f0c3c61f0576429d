"""What a file or a folder is: facts, tables, problems, and a plot of distributions."""

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from composer_copypaste.errors import OutputError, as_recipe_value, count_noun, group_problems
from composer_copypaste.settings import (
    DETECTOR_TITLES,
    AugmentSettings,
    DetectorName,
    ImageSettings,
    PredictSettings,
)
from composer_copypaste.validation import type_adapter
from composer_copypaste.visualize.curves import save_figure

Value = str | int | float | bool | None
MOST_ROWS = 100
"""The console shows this many rows of a table; JSON has all."""
LONGEST_CELL = 128

_ONLY_TO_COMPARE = {"images", "ids", "image files", "COCO file"}
"""Parts of a folder's source that are not shown: lists of images, and checksums that no user can compute."""


@dataclass(frozen=True)
class InfoTable:
    """A table; the first column names its rows."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Value]]

    def to_json(self) -> list[dict[str, Value]]:
        """A dict of each row."""
        return [dict(zip(self.headers, map(_finite, row), strict=True)) for row in self.rows]

    def __str__(self) -> str:
        columns = zip(*self.rows[:MOST_ROWS], strict=True)
        shown = list(zip(*map(_shown_column, self.headers, columns), strict=True))
        alignment = [
            "left" if all(isinstance(row[column], str) for row in self.rows) else "right"
            for column in range(len(self.headers))
        ]
        text = tabulate(shown, list(self.headers), tablefmt="simple", colalign=alignment, disable_numparse=True)
        more = len(self.rows) - MOST_ROWS
        return f"{self.title}\n{text}" + (f"\n... and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Description:
    """What ``copypaste info`` says of a file or a folder.

    Attributes:
        path: of it.
        kind: what it is.
        facts: values by name.
        tables: those with rows.
        problems: why it cannot be used as it is; none where it can.
        warnings: what is probably a mistake.
        draw: draws the distributions; None where there is nothing to draw.
    """

    path: Path
    kind: str
    facts: dict[str, Value]
    tables: Sequence[InfoTable] = ()
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()
    draw: Callable[[], Figure] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, object]:
        """The same as JSON has it, with each problem; ``tables`` by title, each a list of rows."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "facts": {name: _finite(value) for name, value in self.facts.items()},
            "tables": {table.title: table.to_json() for table in self.tables},
            "problems": list(self.problems),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        facts = [[name, _wrapped(value)] for name, value in self.facts.items()]
        parts = [f"{self.path}: {self.kind}", tabulate(facts, tablefmt="plain", disable_numparse=True)]
        parts += [str(table) for table in self.tables if table.rows]
        for noun, texts in (("problem", self.problems), ("warning", self.warnings)):
            if texts:
                title = count_noun(len(texts), noun)
                parts.append("\n".join([title, *(f"  {line}" for line in group_problems(texts))]))
        if not self.problems and not self.warnings:
            parts.append("no problems found")
        return "\n\n".join(parts)

    def save_png(self, path: Path | str) -> None:
        """Write the plot of distributions.

        Raises:
            OutputError: where there is nothing to draw, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise OutputError(f"{path}: expected the name of a PNG file, such as info.png")
        if self.draw is None:
            raise OutputError(f"{self.path}: has nothing to draw: {self.kind}; leave out the image")
        figure = self.draw()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_figure(figure, path)
        except OSError as error:
            raise OutputError(f"{error.filename or path}: cannot be written: {error.strerror}") from error


def source_facts(source: Mapping[str, object]) -> dict[str, Value]:
    """What a folder is made from, by "made from: NAME": neither what is empty or a default, nor lists of images.

    Sections are divided, as "made from: copy_paste.rotation". Of checksums there are those of one file, which
    ``sha256sum`` prints too.
    """
    defaults = {
        "reading of images": type_adapter(ImageSettings).dump_python(ImageSettings(), mode="json"),
        **type_adapter(PredictSettings).dump_python(PredictSettings(), mode="json"),
        **type_adapter(AugmentSettings).dump_python(AugmentSettings(), mode="json"),
        "bad objects": "refuse",
    }
    given = {key: value for key, value in source.items() if key not in _ONLY_TO_COMPARE}
    if isinstance(categories := given.get("categories"), list):
        given["categories"] = count_noun(len(categories), "category", "categories")
    if given.get("pool") is not None:
        given["pool"] = True
    return {f"made from: {key}": _as_fact(value) for key, value in _changed(given, defaults)}


def _changed(values: Mapping[str, object], defaults: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The values that are neither empty nor their defaults; those of sections as "section.key"."""
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, Mapping):
            inner = _changed(value, default if isinstance(default, Mapping) else {})
            yield from ((f"{key}.{name}", each) for name, each in inner)
        elif value != default and value is not None and value != []:
            yield key, value


def _as_fact(value: object) -> Value:
    """A value of JSON as a fact."""
    return value if isinstance(value, str | int | float) else as_recipe_value(value)


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _wrapped(value: Value) -> str:
    """A fact as the console shows it: a long text in lines, of which none is left out."""
    return textwrap.fill(value, LONGEST_CELL) if isinstance(value, str) and " " in value else _shown(value)


def _shown_column(header: str, values: Sequence[Value]) -> list[str]:
    """The values of a column as the console shows them: ids without separators, fractions with equally many digits."""
    if header in ("id", "label"):
        return ["-" if value is None else str(value) for value in values]
    texts = [_shown(value) for value in values]
    decimals = max((len(text.partition(".")[2]) for text in texts if re.fullmatch(r"-?\d+\.\d+", text)), default=0)
    return [
        f"{value:.{decimals}f}" if isinstance(value, float) and re.fullmatch(r"-?\d+(\.\d+)?", text) else text
        for value, text in zip(values, texts, strict=True)
    ]


def _shown(value: Value) -> str:
    """A value as the console shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if re.fullmatch(r"[0-9a-f]{64}", value):
        return f"a file whose SHA-256 begins with {value[:12]}"
    return value if len(value) <= LONGEST_CELL else f"{value[: LONGEST_CELL - 3]}..."


def detector_with_article(detector: DetectorName) -> str:
    """A detector as one says what a file holds: "a Mask R-CNN", "an FCOS"."""
    return f"{'an' if detector == 'fcos' else 'a'} {DETECTOR_TITLES[detector]}"
