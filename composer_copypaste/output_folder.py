"""A folder that one command fills: by one process at a time, continued after an interruption, never over others' files.

While it is being filled, a folder inside it holds what the command needs to go on, and a record of its source.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from composer_copypaste.errors import OutputError, as_json
from composer_copypaste.files import atomic_write, read_json

WORKING_FOLDER = ".unfinished"
"""The folder, inside the output, of files that exist only while it is being filled."""

_SOURCE_FILE = "source.json"
_LOCK_SECONDS = 5.0

Source = Mapping[str, object]
"""All that the bytes of the output depend on, by name, as JSON has it."""


@dataclass(frozen=True)
class OutputFolder:
    """A folder that is filled from a source.

    Attributes:
        path: a new or an empty folder, or one that the same command began or completed.
        content: what the folder is for, in messages: "shards".
        source: what it is made from.
        may_change: the key of the source that may change before the folder is complete, as damaged images do that are
            repaired.
        completed_from: gives the source of the complete content; None where the content is not complete.
    """

    path: Path
    content: str
    source: Source
    may_change: str
    completed_from: Callable[[], Source | None]

    @property
    def working(self) -> Path:
        """The folder of files that exist only until the content is complete."""
        return self.path / WORKING_FOLDER

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Check that the source may be written to the folder, and keep other processes out of it meanwhile.

        Raises:
            OutputError: where the folder is not for this source, or another process is writing there.
        """
        self.check()
        self.working.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.working / "lock", timeout=_LOCK_SECONDS):
                self.check()
                if self.completed_from() is None:
                    with atomic_write(self.working / _SOURCE_FILE) as unfinished:
                        unfinished.write_text(json.dumps(self.source))
                yield
        except Timeout:
            raise OutputError(f"{self.path}: another process is writing {self.content} there; wait for it") from None
        if self.completed_from() is not None:
            shutil.rmtree(self.working, ignore_errors=True)  # another process may be removing it at the same time

    def check(self) -> None:
        """Raise ``OutputError`` where this is no folder, or holds anything else than what is made from the source."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(
                f"{self.path}: expected a folder for the {self.content}, found a file; give another folder"
            )
        record = self.working / _SOURCE_FILE
        found = self.completed_from()
        if found is not None:
            self._check_same_source(found)
        elif record.exists():
            began_from = read_json(record, "record of the source")
            if not isinstance(began_from, dict):
                raise OutputError(
                    f"{record}: expected the record of a source, found {as_json(began_from)}; remove {self.path}"
                )
            self._check_same_source(began_from | {self.may_change: self.source[self.may_change]})
        elif self.path.exists() and any(path.name != WORKING_FOLDER for path in self.path.iterdir()):
            raise OutputError(
                f"{self.path}: expected a new or an empty folder for the {self.content}; give another folder"
            )

    def _check_same_source(self, found: Source) -> None:
        differing = list(_differing_keys(self.source, found))
        if differing:
            raise OutputError(
                f"{self.path}: holds {self.content} of another source, which differs in {', '.join(differing)}; give "
                "another folder, or remove this one"
            )


def _differing_keys(one: Source, other: Source, section: str = "") -> Iterator[str]:
    """The keys in which two sources differ; those of a section as "section.key"."""
    for key in {**one, **other}:
        values = (one.get(key), other.get(key))
        if all(isinstance(value, Mapping) for value in values):
            yield from _differing_keys(*cast(tuple[Source, Source], values), f"{section}{key}.")
        elif values[0] != values[1]:
            yield f"{section}{key}"
