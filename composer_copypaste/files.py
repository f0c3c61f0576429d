"""Files: written so that a kill at any time leaves all of one or nothing, and read with a clear error."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from composer_copypaste.errors import DataError, OutputError

UNFINISHED = ".unfinished"

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular_file(path: Path | str) -> None:
    """Raise ``OSError`` where there is no file, or something else, such as a pipe, which may block when opened."""
    kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"expected a file, found {kind}", str(path))


def expand_home(path: Path | str) -> Path:
    """The path with the home folder in place of ~; unchanged where ~ names a user that is not known.

    ``Path.expanduser`` raises ``RuntimeError`` there; what opens the path says that there is no such file.
    """
    return Path(os.path.expanduser(path))


def describe_missing(path: Path | str, what: str) -> str:
    """That nothing has this path, for messages, and of a relative one, where it starts from."""
    start = "" if Path(path).is_absolute() else f"; relative paths start from {Path.cwd()}"
    return f"there is no such {what}{start}"


def check_exists(path: Path | str, what: str) -> None:
    """Raise ``DataError`` where nothing has this path; ``what`` says in the message what should, as "COCO file"."""
    if not Path(path).exists():
        raise DataError(f"{path}: {describe_missing(path, what)}")


@contextmanager
def name_path_in_errors(path: Path, unfinished: Path | None = None) -> Iterator[None]:
    """Give this path to an ``OSError`` inside that names no file, as a full disk's does, or an unfinished one."""
    try:
        yield
    except OSError as error:
        if not error.filename or Path(error.filename) == unfinished:
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; what was written there then replaces ``path`` at once, complete on the disk.

    Where writing fails, ``path`` stays as it was.
    """
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with name_path_in_errors(path, unfinished):
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            _rename_into_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_if_absent(path: Path, text: str) -> bool:
    """Write a complete file unless there is one already; return whether this process wrote it.

    Of several processes at the same time, one writes. On a disk without hard links all do, and the last one wins.
    """
    own = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with atomic_write(own) as unfinished:
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


def atomic_link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, replacing a former link at once."""
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.symlink_to(target)
    except OSError as error:
        error.filename = str(path)  # Python names the target, which is not at fault
        raise
    _rename_into_place(unfinished, path)


def _rename_into_place(unfinished: Path, path: Path) -> None:
    """Give a file its final name; an error names that, as where a folder has the name."""
    try:
        unfinished.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise


def is_unfinished_file(path: Path) -> bool:
    """Whether this is a temporary file that a killed process left."""
    return path.name.startswith(".") and path.name.endswith(UNFINISHED)


def remove_unfinished_files(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder, if the folder exists."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


Number = float | int | None
Row = Mapping[str, Number]
"""Numbers by name; None for a number that was not finite."""


def read_json_lines(path: Path, most: int | None = None) -> list[Row]:
    """The first ``most`` rows of a file; None: all. No rows where there is no file.

    Raises:
        OutputError: naming the line, where it holds something else.
    """
    lines = path.read_bytes().splitlines()[:most] if path.exists() else []
    return [_parse_row(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def to_json_lines(rows: Iterable[Row]) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _parse_row(line: bytes, place: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and all(value is None or isinstance(value, int | float) for value in row.values()):
        return row
    raise OutputError(f"{place}: expected numbers by their name, as JSON; without it, rows and curves begin again")


def read_json(path: Path, what: str) -> Any:
    """The parsed content of a JSON file.

    Args:
        path: the file.
        what: what the file should be, for messages, such as "annotation file".

    Raises:
        DataError: where there is no such file, or it holds no JSON; the message says what it holds instead.
    """
    try:
        check_regular_file(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: {describe_missing(path, what)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        kind = "JSON Lines, an object in each line" if _is_json_lines(content) else describe_non_json(content)
        problem = _json_problem(error) if kind is None else f"expected the {what}, got {kind}"
        raise DataError(f"{path}: {problem}") from None


def _is_json_lines(content: bytes) -> bool:
    """Whether the first line is a JSON object by itself, and the next line begins another one."""
    first, _, rest = content.strip().partition(b"\n")
    try:
        return isinstance(json.loads(first), dict) and rest.lstrip().startswith(b"{")
    except (ValueError, RecursionError):
        return False


def _json_problem(error: ValueError | RecursionError) -> str:
    """Why Python cannot read the JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        return f"not valid JSON: byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "not valid JSON here: its lists are nested too deeply"
    return f"not valid JSON here: {error}"  # a number with more digits than Python reads


_WRAPPINGS = {
    b"version https://git-lfs.github.com": "a Git LFS pointer, not the file itself; fetch that with: git lfs pull",
    b"/annex/objects/": "a git-annex pointer, not the file itself; fetch that with: git annex get",
    b"\x1f\x8b": "compressed with gzip; unpack it (gunzip)",
    b"BZh": "compressed with bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "compressed with xz; unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it (unzstd)",
    b"7z\xbc\xaf": "a 7z archive; unpack it, and name what is in it",
    b"Rar!": "a rar archive; unpack it, and name what is in it",
}
"""First bytes of what may stand in place of a file of any kind."""
ZIP = b"PK\x03\x04"
_OTHER_FILES = {
    ZIP: "a zip archive; unpack it, and name what is in it",
    b"PAR1": "a Parquet file; export COCO instance annotations (JSON)",
    b"\x89PNG": "an image (PNG)",
    b"\xff\xd8\xff": "an image (JPEG)",
    b"%PDF": "a PDF",
}
"""First bytes of files that are no JSON; some of them are good files of another kind (weights are zip archives)."""
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html)", re.I)
_OTHER_TEXTS = {
    re.compile(rb"\s*(<\?xml[^>]*>\s*)?<annotation>"): (
        "XML of one image, as Pascal VOC has it; convert the data set to COCO instance annotations (JSON)"
    ),
    re.compile(rb"\s*<"): "XML; export COCO instance annotations (JSON)",
    re.compile(rb"\s*\d+( +-?\d*\.?\d+){4,}\s*(\r?\n|$)"): (
        "text with a class and coordinates in each line, as YOLO has it; convert the data set to COCO instance "
        "annotations (JSON)"
    ),
}


def describe_non_json(content: bytes) -> str | None:
    """What a file is that should be JSON, by its first bytes, and what to do about it; None: not known."""
    known = describe_wrapped_file(content) or _match_first_bytes(content, _OTHER_FILES)
    return known or next((kind for pattern, kind in _OTHER_TEXTS.items() if pattern.match(content)), None)


def describe_wrapped_file(content: bytes) -> str | None:
    """What stands in place of a file of any kind: compressed, a pointer to it, a web page, nothing; None: not known."""
    if not content.strip():
        return "an empty file"
    return (
        "a web page; download the file itself" if _WEB_PAGE.match(content) else _match_first_bytes(content, _WRAPPINGS)
    )


def _match_first_bytes(content: bytes, kinds: Mapping[bytes, str]) -> str | None:
    return next((kind for start, kind in kinds.items() if content.startswith(start)), None)
