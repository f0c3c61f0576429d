"""Files that are there completely or not at all, whenever the process that writes them is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the name to write to; once that is written, it is put on the disk and takes the place of ``path`` at once.

    What was at ``path`` stays where writing fails.
    """
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def link_whole(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``; at no time there is none, if there was one."""
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(target)
    unfinished.replace(path)


def is_unfinished(path: Path) -> bool:
    """Whether this is what a killed process left of a file."""
    return path.name.startswith(".") and path.name.endswith(UNFINISHED)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder, which need not be there."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
