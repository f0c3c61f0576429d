"""How far long work is: a bar on a terminal, lines in a log file."""

import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

BAR_FORMAT = (
    "{desc} {percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}, {elapsed} passed"
)
LINES_IN_WORK = 10
Item = TypeVar("Item")
LINE_SECONDS = 3.0


@dataclass(eq=False)
class Progress:
    """A bar on a terminal; elsewhere a line at each tenth of the work, and none for work that is soon done.

    Attributes:
        name: what is done, such as "finding objects".
        unit: what is counted, such as "images".
        total: how many there are; None: unknown, then a log gets a line at every hundredth one.
        done: how many are done.
        stays: whether a complete bar stays on the terminal.
        stream: where it is shown.
        seconds: the shortest time between two lines.
    """

    name: str
    unit: str
    total: int | None
    done: int = 0
    stays: bool = True
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    seconds: float = LINE_SECONDS

    def __post_init__(self) -> None:
        self._first = self.done
        self._start = self._line_time = time.monotonic()
        self._lines = self._lines_due()
        self._lock = threading.Lock()
        self._bar: tqdm[Any] | None = None
        if self.stream.isatty():
            columns, rows = shutil.get_terminal_size()  # tqdm itself finds 0 in some containers, and shows nothing
            self._bar = tqdm(
                desc=self.name,
                unit=self.unit if self.total is not None else f" {self.unit}",
                total=self.total,
                initial=self.done,
                leave=self.stays,
                file=self.stream,
                smoothing=0,  # evaluations, rare and long, count in the mean speed
                bar_format=None if self.total is None else BAR_FORMAT,
                ncols=columns,
                nrows=rows,
            )

    def advance(self, number: int = 1, shown: str = "") -> None:
        """Count what is done now, with what is worth telling beside; any thread may."""
        with self._lock:
            self.done += number
            if self._bar is not None:
                self._bar.set_postfix_str(shown, refresh=False)
                self._bar.update(number)
            elif (due := self._lines_due()) > self._lines:
                now = time.monotonic()
                if now - self._line_time >= self.seconds:
                    self._lines, self._line_time = due, now
                    print(self._line(shown, now - self._start), file=self.stream, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lines_due(self) -> int:
        return self.done // 100 if not self.total else LINES_IN_WORK * self.done // self.total

    def _line(self, shown: str, passed: float) -> str:
        parts = [f"{self.name} {self.done}/{self.total or '?'} {self.unit}"]
        if self.total is not None:
            left = passed / (self.done - self._first) * (self.total - self.done)
            parts.append(f"{tqdm.format_interval(left)} left")
        return ", ".join([*parts, *([shown] if shown else []), f"{tqdm.format_interval(passed)} passed"])


def with_progress(items: Iterable[Item], name: str, unit: str, total: int) -> Iterator[Item]:
    """The items, of which each is counted as done when the next one is asked for."""
    with Progress(name, unit, total) as bar:
        for item in items:
            yield item
            bar.advance()
