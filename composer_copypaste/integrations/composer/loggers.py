"""What a run reports while it trains: ``metrics.jsonl``, and the progress bar on the console."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from composer import Logger, State, TimeUnit
from composer.loggers import LoggerDestination
from composer.utils import dist
from torch import Tensor
from tqdm import tqdm

from composer_copypaste.errors import count_noun
from composer_copypaste.files import Number, atomic_write, name_path_in_errors, read_json_lines, to_json_lines
from composer_copypaste.progress import Progress

MACHINE_KEYS = ("time", "throughput/", "memory/", "copy_paste/seconds", "large_scale_jitter/seconds")
"""Values whose names begin with these depend on the machine; all others are the same when a run is repeated."""

SHOWN_IN_BAR = {"loss/train/total": "loss", "metrics/eval/segm/AP": "mask AP", "metrics/eval/bbox/AP": "box AP"}
"""Box AP where no masks are scored."""
SHOWN_AFTER_EVALUATION = {
    "metrics/eval/bbox/AP": "box AP",
    "metrics/eval/segm/AP": "mask AP",
    "metrics/eval/segm/AP50": "mask AP50",
}


class JsonLinesLogger(LoggerDestination):
    """Writes ``metrics.jsonl``: one JSON object for each training batch, one for each evaluation.

    A row holds ``batch`` (how many were trained), ``epoch``, ``time`` (seconds of training so far) and every scalar
    that was logged for that batch; values that are not finite are null. Each row is on disk as soon as it is complete;
    where the file was removed meanwhile, a new one begins. A checkpoint holds the number of rows, and a run that
    resumes from it first drops the rows written after it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = 0
        self._pending: dict[str, Number] = {}
        self._file: BinaryIO | None = None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keeps the scalars for the next row."""
        # Composer's own "time/..." repeat batch, epoch and time
        self._pending.update(
            {name: value for name, value in _numeric_metrics(metrics).items() if not name.startswith("time/")}
        )

    def fit_start(self, state: State, logger: Logger) -> None:
        """Opens the file, which drops the rows that a resumed run will write again."""
        self._open_file()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Writes the row of a batch; callbacks run before loggers, so all has been logged."""
        self._write_row(state)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Writes what was logged at the end of an epoch, if anything was."""
        self._write_row(state)

    def eval_end(self, state: State, logger: Logger) -> None:
        """Writes the row of an evaluation."""
        self._write_row(state)

    def close(self, state: State, logger: Logger) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, int]:
        """How many rows were written."""
        return {"rows": self._rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restores the number of rows."""
        self._rows = state["rows"]

    def _write_row(self, state: State) -> None:
        file = self._open_file()
        if file is None or not self._pending:
            return
        now = state.timestamp
        row = {"batch": now.batch.value, "epoch": now.epoch.value, "time": round(now.total_wct.total_seconds(), 3)}
        rest = to_json_lines([row | self._pending]).encode()
        with name_path_in_errors(self.path):
            # unbuffered: Python would write a buffer that a full disk refused again when it closes the file
            while rest:
                rest = rest[file.write(rest) :]
        self._rows += 1
        self._pending = {}

    def _open_file(self) -> BinaryIO | None:
        """The file to append to, on the first process; opening it drops the rows after the last checkpoint."""
        if self._file is not None and not _is_file_at(self._file, self.path):
            self._file.close()
            self._file = None
        if self._file is None and dist.get_global_rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = read_json_lines(self.path, self._rows)
            with atomic_write(self.path) as shortened:
                shortened.write_text(to_json_lines(kept))
            self._rows = len(kept)
            self._file = cast(BinaryIO, self.path.open("ab", buffering=0))
        return self._file


def _is_file_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _numeric_metrics(metrics: Mapping[str, Any]) -> dict[str, Number]:
    """The metrics that are numbers, as Python's own; None for a number that is not finite."""
    found: dict[str, Number] = {}
    for name, value in metrics.items():
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if isinstance(number, int | float):
            found[name] = number if math.isfinite(number) else None
    return found


class ProgressBar(LoggerDestination):
    """Shows the progress of a run on the console, with the loss, the latest mask or box AP and the time left.

    Where the stream is no terminal (a log file), it writes a line at each tenth of the run instead.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._training: Progress | None = None
        self._evaluation: Progress | None = None
        self._shown: dict[str, str] = {}
        self._scores: dict[str, str] = {}

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keeps the numbers to show."""
        for name, value in _numeric_metrics(metrics).items():
            text = "nan" if value is None else f"{value:.3f}"
            if name in SHOWN_IN_BAR:
                self._shown[SHOWN_IN_BAR[name]] = text
            if name in SHOWN_AFTER_EVALUATION:
                self._scores[SHOWN_AFTER_EVALUATION[name]] = text
        if "mask AP" in self._shown:
            self._shown.pop("box AP", None)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Starts the bar of the training, at the batch where it begins or resumes."""
        if dist.get_global_rank() == 0:
            self._training = self._bar("train", total_batches(state), state.timestamp.batch.value)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Moves on."""
        if self._training:
            self._training.advance(shown=", ".join(f"{name} {value}" for name, value in self._shown.items()))

    def eval_start(self, state: State, logger: Logger) -> None:
        """Starts a bar for the evaluation; not in the log file of a training."""
        if dist.get_global_rank() == 0 and (self._training is None or self._stream.isatty()):
            length = state.dataloader_len
            total = None if length is None else length.value
            self._evaluation = self._bar("evaluate", total, stays=False)

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        """Moves on."""
        if self._evaluation:
            self._evaluation.advance()

    def eval_end(self, state: State, logger: Logger) -> None:
        """Writes the scores of the evaluation, on a line that stays."""
        if self._evaluation:
            self._evaluation.close()
            self._evaluation = None
        if dist.get_global_rank() == 0 and self._scores:
            found = ", ".join(f"{name} {value}" for name, value in self._scores.items())
            trained = state.timestamp.batch.value
            moment = f" after {count_noun(trained, 'batch', 'batches')}" if trained else ""
            tqdm.write(f"evaluation{moment}: {found}", file=self._stream)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Leaves the bar of the training on the console."""
        self.close(state, logger)

    def close(self, state: State, logger: Logger) -> None:
        """Ends the bars, also those of a run that stopped early."""
        for bar in (self._evaluation, self._training):
            if bar:
                bar.close()
        self._evaluation = self._training = None

    def _bar(self, name: str, total: int | None, done: int = 0, *, stays: bool = True) -> Progress:
        return Progress(name, "batches", total, done=done, stays=stays, stream=self._stream, seconds=0.0)


def total_batches(state: State) -> int | None:
    """How many batches the whole run has; None where its duration is given in samples or tokens."""
    if state.max_duration is None or state.max_duration.unit not in (TimeUnit.BATCH, TimeUnit.EPOCH):
        return None
    if state.max_duration.unit == TimeUnit.BATCH:
        return state.max_duration.value
    return None if state.dataloader_len is None else state.max_duration.value * state.dataloader_len.value
