"""Files that are there completely or not at all, whenever the process that writes them is killed."""

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from composer_copypaste.errors import OutputError

UNFINISHED = ".unfinished"

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path | str) -> None:
    """Raise ``OSError`` where there is no file, or something that may block when it is opened, such as a pipe."""
    kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"expected a file, found {kind}", str(path))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An ``OSError`` inside that names no file, as a full disk's, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the name to write to; once that is written, it is put on the disk and takes the place of ``path`` at once.

    What was at ``path`` stays where writing fails.
    """
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with named(path):
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            _put_in_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_first(path: Path, text: str) -> bool:
    """Write a file, whole, unless it is there; of processes that do so at the same time one does: whether this one did.

    A disk without hard links cannot tell, and the last one wins.
    """
    own = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with written_whole(own) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    return True


def link_whole(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``; at no time there is none, if there was one."""
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.symlink_to(target)
    except OSError as error:
        error.filename = str(path)  # Python names the target, which has no part in it
        raise
    _put_in_place(unfinished, path)


def _put_in_place(unfinished: Path, path: Path) -> None:
    """Give a file its name; where that cannot be, it is that name's fault, as a folder's that has it."""
    try:
        unfinished.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise


def is_unfinished(path: Path) -> bool:
    """Whether this is what a killed process left of a file."""
    return path.name.startswith(".") and path.name.endswith(UNFINISHED)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder, which need not be there."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


Number = float | int | None
Row = Mapping[str, Number]
"""Numbers by their name; None for what was not finite."""


def read_rows(path: Path, most: int | None = None) -> list[Row]:
    """The rows of a file, the first ``most``; None: all of them. Where there is no file, there are none.

    Raises:
        OutputError: naming the line where something else stands.
    """
    lines = path.read_bytes().splitlines()[:most] if path.exists() else []
    return [_row(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def as_lines(rows: Iterable[Row]) -> str:
    """The text that holds these rows."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _row(line: bytes, place: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and all(value is None or isinstance(value, int | float) for value in row.values()):
        return row
    raise OutputError(f"{place}: expected numbers by their name, as JSON; without the file, rows and curves begin anew")
