"""A folder that one command fills: by one process at a time, continued after an interruption, never over others' files.

While it is being filled, a folder inside it holds what the command needs to go on, and a record of its source.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from composer_copypaste.errors import OutputError, as_json, as_recipe_value, first_few
from composer_copypaste.files import atomic_write, read_json

WORKING_FOLDER = ".unfinished"
"""The folder, inside the output, of files that exist only while it is being filled."""

_ENDING_OF_FILES = re.compile(r"\.(bmp|csv|gif|html|jpe?g|jsonl?|pdf|png|svg|tiff?|txt|webp|ya?ml|zip)", re.IGNORECASE)
_SOURCE_FILE = "source.json"
_LOCK_SECONDS = 5.0
_SHORT = 40
"""Longer values, such as checksums, are not shown in messages."""

Source = Mapping[str, object]
"""All that the bytes of the output depend on, by name, as JSON has it."""


@dataclass(frozen=True)
class OutputFolder:
    """A folder that is filled from a source.

    Attributes:
        path: a new or an empty folder, or one that the same command began or completed.
        content: what the folder is for, in messages: "shards".
        source: what it is made from.
        completed_from: gives the source of the complete content; None where the content is not complete.
        may_change: the key of the source that may change before the folder is complete, as damaged images do that are
            repaired.
        extends: says of the source in the folder, and of the one given, whether this only adds to that; None: nothing
            may be added.
        is_own: whether a file, by its path relative to the folder, is one that is written there.
    """

    path: Path
    content: str
    source: Source
    completed_from: Callable[[], Source | None]
    is_own: Callable[[Path], bool]
    may_change: str | None = None
    extends: Callable[[Source, Source], bool] | None = None

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
                    self.write_source()
                yield
        except Timeout:
            raise OutputError(f"{self.path}: another process is writing {self.content} there; wait for it") from None
        if self.completed_from() is not None:
            shutil.rmtree(self.working, ignore_errors=True)  # another process may be removing it at the same time

    def write_source(self) -> None:
        """Record what is being written, for those who continue."""
        with atomic_write(self.working / _SOURCE_FILE) as unfinished:
            unfinished.write_text(json.dumps(self.source))

    def check(self) -> None:
        """Raise ``OutputError`` where this is no folder, or holds anything else than what is made from the source."""
        check_is_no_file(self.path, self.content)
        found = self.completed_from()
        began_from = began_source(self.path)
        if found is not None:
            self._check_same_source(found)
            if found != self.source:
                self._check_own_files()
        elif began_from is not None:
            changing = {} if self.may_change is None else {self.may_change: self.source[self.may_change]}
            self._check_same_source({**began_from, **changing})
            self._check_own_files()
        elif self.path.exists() and any(path.name != WORKING_FOLDER for path in self.path.iterdir()):
            raise OutputError(
                f"{self.path}: expected a new or an empty folder for the {self.content}; give another folder"
            )

    def _check_same_source(self, found: Source) -> None:
        differing = list(_differences(found, self.source))
        if differing and not (self.extends is not None and self.extends(found, self.source)):
            raise OutputError(
                f"{self.path}: holds {self.content} of another source, which differs in {', '.join(differing)}; give "
                "another folder, or remove this one"
            )

    def _check_own_files(self) -> None:
        """Raise ``OutputError`` where a file was put into the folder; hidden ones, as file managers make, may be."""
        visible = (path.relative_to(self.path) for path in _visible_files(self.path))
        foreign = sorted(str(path) for path in visible if not self.is_own(path))
        if foreign:
            raise OutputError(
                f"{self.path}: holds unfinished {self.content}, and files that are not of them: "
                f"{first_few(foreign, 3)}; move those away, or give another folder"
            )


def _visible_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def check_is_no_file(path: Path, content: str) -> None:
    """Raise ``OutputError`` where a file has the name of the folder, or of one that it would be in.

    A new folder may not be called like a file either, as "a.png": who gives that name expects an image.
    """
    if _ENDING_OF_FILES.fullmatch(path.suffix) and not path.exists():
        raise OutputError(
            f"{path}: expected a folder for the {content}, which holds several files, got a name that ends in "
            f"{path.suffix}; give a name without it, such as {path.with_suffix('')}"
        )
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise OutputError(f"{place}: expected a folder for the {content}, found a file; give another folder")
            return


def began_source(folder: Path) -> Source | None:
    """What the unfinished content of a folder is made from; None where nothing is unfinished there."""
    record = folder / WORKING_FOLDER / _SOURCE_FILE
    if not record.exists():
        return None
    source = read_json(record, "record of the source")
    if not isinstance(source, dict):
        raise OutputError(f"{record}: expected the record of a source, found {as_json(source)}; remove {folder}")
    return source


# ---- differences


def _differences(there: Source, given: Source, section: str = "") -> Iterator[str]:
    """The keys in which two sources differ, and how; those of a section as "section.key"."""
    for key in {**given, **there}:
        values = (there.get(key), given.get(key))
        if all(isinstance(value, Mapping) for value in values):
            yield from _differences(*cast(tuple[Source, Source], values), f"{section}{key}.")
        elif values[0] != values[1]:
            yield f"{section}{key}{_how(*values)}"


def _how(there: object, given: object) -> str:
    """How two values differ, in brackets; nothing where they are checksums."""
    texts = [as_recipe_value(value) for value in (there, given)]
    if max(map(len, texts)) <= _SHORT:
        return f" ({texts[0]} there, {texts[1]} given)"
    if isinstance(there, list) and isinstance(given, list):
        return _how_lists(_by_name(there), _by_name(given))
    return ""


def _by_name(entries: Sequence[object]) -> Mapping[str, object]:
    """The entries of a list by their names: themselves, or the first item of those that are lists."""
    return {str(entry[0]) if isinstance(entry, list) and entry else str(entry): entry for entry in entries}


def _how_lists(there: Mapping[str, object], given: Mapping[str, object]) -> str:
    found = {
        "not given": [name for name in there if name not in given],
        "not there": [name for name in given if name not in there],
        "changed": [name for name in there if name in given and there[name] != given[name]],
    }
    parts = [f"{what}: {first_few(names, 3)}" for what, names in found.items() if names]
    return f" ({'; '.join(parts)})" if parts else " (in another order)"
