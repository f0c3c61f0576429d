"""Access to the files of a folder of shards: read in place, or through a cache on this machine's disk.

streaming's own data set keeps the state of its cache in shared memory, which outlives a killed run and then stops the
next one from starting. Here the files are the state, protected by file locks that a kill releases. Runs, ranks and
workers can share a cache.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

from filelock import FileLock

from composer_copypaste.data.streaming.format import ANNOTATIONS, HASH, INDEX, MANIFEST, Shard
from composer_copypaste.errors import DataError, count_noun
from composer_copypaste.files import describe_missing, expand_home

_ATTEMPTS = 3
_RETRY_SECONDS = 1.0
"""Seconds between the first and the second attempt to fetch a file; it grows with each attempt."""
_TIMEOUT = 600.0
"""Seconds."""
_FETCH_PREFIX = ".coming"
_LOCK_FOLDER = ".locks"


class FolderInPlace:
    """A folder of shards that are read in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise DataError(f"{folder}: {describe_missing(folder, 'folder of shards')}")
        if not (folder / INDEX).exists():
            raise DataError(f"{folder}: expected shards, found no {INDEX}; copypaste shard writes it when it is done")

    def ensure_shard(self, shard: Shard) -> None:
        """Raise ``DataError`` where the shard is missing, or its size is not that in the index."""
        try:
            nbytes = (self.folder / shard.name).stat().st_size
        except FileNotFoundError:
            raise DataError(f"{self.folder / shard.name}: the shard is missing") from None
        if nbytes != shard.nbytes:
            raise DataError(
                f"{self.folder / shard.name}: has {count_noun(nbytes, 'byte')}, {INDEX} says {shard.nbytes}"
            )

    def ensure_annotations(self) -> None:
        """Raise ``DataError`` where the annotation file is missing."""
        if not (self.folder / ANNOTATIONS).exists():
            raise DataError(f"{self.folder / ANNOTATIONS}: the annotation file is missing")

    def mark_used(self, shard: Shard) -> None:
        """Do nothing: only a cache needs to know."""


class ShardCache:
    """A cache of shards: fetched when they are needed, and removed, least recently used first, when it is full.

    Args:
        remote: a folder, or the URL of one in an object store that streaming knows.
        cache: a folder on this machine's disk; each data set gets a folder in it, named after its index.
        limit: largest size of the cached shards in bytes; None: no limit.
    """

    def __init__(self, remote: str, cache: Path, limit: int | None) -> None:
        self.remote = remote
        self.limit = limit
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=_FETCH_PREFIX, dir=cache) as fetched:
                for name in (INDEX, MANIFEST):
                    _fetch(f"{remote}/{name}", Path(fetched) / name)
                digest = hashlib.sha256((Path(fetched) / INDEX).read_bytes()).hexdigest()[:16]
                self.folder = cache / digest
                (self.folder / _LOCK_FOLDER).mkdir(parents=True, exist_ok=True)
                for name in (MANIFEST, INDEX):
                    (Path(fetched) / name).replace(self.folder / name)
        except OSError as error:
            raise DataError(f"{error.filename or cache}: cannot be written: {error.strerror}") from error

    def ensure_shard(self, shard: Shard) -> None:
        """Fetch the shard, unless it is cached; if another process is fetching it, wait for that.

        Raises:
            DataError: where it cannot be fetched, or arrives damaged.
        """
        with self._lock(shard.name):
            if not (self.folder / shard.name).exists():
                fetched = self._new_file(shard.name)
                self._make_room(shard.nbytes)
                _fetch(f"{self.remote}/{shard.name}", fetched)
                _check_shard(fetched, shard, f"{self.remote}/{shard.name}")
                fetched.replace(self.folder / shard.name)

    def ensure_annotations(self) -> None:
        """Fetch the annotation file, unless it is cached."""
        with self._lock(ANNOTATIONS):
            if not (self.folder / ANNOTATIONS).exists():
                fetched = self._new_file(ANNOTATIONS)
                _fetch(f"{self.remote}/{ANNOTATIONS}", fetched)
                fetched.replace(self.folder / ANNOTATIONS)

    def mark_used(self, shard: Shard) -> None:
        """Set the time of last use, which decides which shard is removed first."""
        with suppress(FileNotFoundError):  # another process just removed it
            os.utime(self.folder / shard.name)

    def _new_file(self, name: str) -> Path:
        """The path that a file is fetched to before it gets its name; what a killed process left there is removed."""
        path = self.folder / f"{_FETCH_PREFIX}.{name}"
        path.unlink(missing_ok=True)
        return path

    def _make_room(self, nbytes: int) -> None:
        """Remove the least recently used shards until ``nbytes`` more are within the limit."""
        if self.limit is None:
            return
        with self._lock("room"):
            present = sorted((path.stat().st_mtime_ns, path) for path in self.folder.glob("shard.*.mds"))
            total = sum(path.stat().st_size for _, path in present) + nbytes
            for _, path in present:
                if total <= self.limit:
                    break
                total -= path.stat().st_size
                path.unlink()

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with FileLock(self.folder / _LOCK_FOLDER / name):
            yield


def open_shard_files(source: str, cache: Path | None, cache_limit: int | None) -> FolderInPlace | ShardCache:
    """The files of a folder of shards, or of shards behind a URL.

    Raises:
        DataError: where there are none, or they cannot be fetched.
    """
    remote = local_path(source)
    if cache is not None:
        return ShardCache(remote.rstrip("/"), cache, cache_limit)
    if is_url(remote):
        raise DataError(f"{source}: shards of an object store need a cache, a folder on this machine's disk")
    return FolderInPlace(Path(remote))


def is_url(source: str) -> bool:
    """Whether shards are in an object store, or anywhere else than in a folder."""
    return "://" in local_path(source)


def local_path(source: str) -> str:
    """The path of a folder, ``file://`` and ``~`` resolved; other URLs unchanged."""
    parsed = urlparse(source)
    if parsed.scheme == "file":
        return unquote(parsed.path)
    return source if "://" in source else str(expand_home(source))


def _fetch(remote: str, local: Path) -> None:
    from streaming.base.storage import CloudDownloader

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            CloudDownloader.direct_download(remote, str(local), _TIMEOUT)
        except Exception as error:  # the client of each store has its own errors
            local.unlink(missing_ok=True)
            if attempt == _ATTEMPTS or isinstance(error, FileNotFoundError | ValueError | ImportError):
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise DataError(f"{remote}: cannot be fetched: {reason}") from error
            time.sleep(_RETRY_SECONDS * attempt)
        else:
            return


def _check_shard(path: Path, shard: Shard, remote: str) -> None:
    """Raise ``DataError``, and remove the file, where a shard is not the one that was written."""
    from streaming.base.hashing import get_hash

    content = path.read_bytes()
    if len(content) != shard.nbytes or get_hash(HASH, content) != shard.hash:
        path.unlink()
        raise DataError(f"{remote}: is damaged: it is not the shard that {INDEX} describes; copy it there again")
