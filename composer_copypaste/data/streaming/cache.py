"""The files of a folder of shards, wherever it is: read in place, or through a cache on this machine's disk.

streaming's own data set keeps what is where in shared memory, which outlives a killed run and then keeps the next from
starting. Here the files alone say it, under file locks that a kill releases; runs, ranks and workers share a cache.
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
from composer_copypaste.errors import DataError, counted

_ATTEMPTS = 3
_PAUSE = 1.0
_TIMEOUT = 600.0
_COMING = ".coming"
_LOCKS = ".locks"


class FolderInPlace:
    """A folder of shards that is read where it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder of shards")
        if not (folder / INDEX).exists():
            raise DataError(f"{folder}: expected shards, found no {INDEX}; copypaste shard writes it when it is done")

    def hold(self, shard: Shard) -> None:
        """Raise ``DataError`` where the shard is missing, or has another size than the index says."""
        try:
            nbytes = (self.folder / shard.name).stat().st_size
        except FileNotFoundError:
            raise DataError(f"{self.folder / shard.name}: the shard is missing") from None
        if nbytes != shard.nbytes:
            raise DataError(f"{self.folder / shard.name}: has {counted(nbytes, 'byte')}, {INDEX} says {shard.nbytes}")

    def hold_annotations(self) -> None:
        """Raise ``DataError`` where the annotation file is missing."""
        if not (self.folder / ANNOTATIONS).exists():
            raise DataError(f"{self.folder / ANNOTATIONS}: the annotation file is missing")

    def used(self, shard: Shard) -> None:
        """Nothing needs to be noted."""


class ShardCache:
    """Shards that are fetched when they are needed; those not used for longest go when room is needed.

    Args:
        remote: a folder, or the URL of one in an object store that streaming knows.
        cache: a folder on this machine's disk; each data set gets a folder in it, named after its index.
        limit: so many bytes of shards at most; None: no limit.
    """

    def __init__(self, remote: str, cache: Path, limit: int | None) -> None:
        self.remote = remote
        self.limit = limit
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=_COMING, dir=cache) as coming:
                for name in (INDEX, MANIFEST):
                    _fetch(f"{remote}/{name}", Path(coming) / name)
                digest = hashlib.sha256((Path(coming) / INDEX).read_bytes()).hexdigest()[:16]
                self.folder = cache / digest
                (self.folder / _LOCKS).mkdir(parents=True, exist_ok=True)
                for name in (MANIFEST, INDEX):
                    (Path(coming) / name).replace(self.folder / name)
        except OSError as error:
            raise DataError(f"{error.filename or cache}: cannot be written: {error.strerror}") from error

    def hold(self, shard: Shard) -> None:
        """Fetch the shard, if it is not there; another process that fetches it is waited for.

        Raises:
            DataError: where it cannot be fetched, or comes damaged.
        """
        with self._lock(shard.name):
            if not (self.folder / shard.name).exists():
                self._come(shard)

    def hold_annotations(self) -> None:
        """Fetch the annotation file, if it is not there."""
        with self._lock(ANNOTATIONS):
            if not (self.folder / ANNOTATIONS).exists():
                coming = self._unstarted(ANNOTATIONS)
                _fetch(f"{self.remote}/{ANNOTATIONS}", coming)
                coming.replace(self.folder / ANNOTATIONS)

    def used(self, shard: Shard) -> None:
        """Note the time, by which it is decided what goes first."""
        with suppress(FileNotFoundError):  # it had to go just now
            os.utime(self.folder / shard.name)

    def _come(self, shard: Shard) -> None:
        coming = self._unstarted(shard.name)
        self._make_room(shard.nbytes)
        _fetch(f"{self.remote}/{shard.name}", coming)
        _check(coming, shard, f"{self.remote}/{shard.name}")
        coming.replace(self.folder / shard.name)

    def _unstarted(self, name: str) -> Path:
        """Where a file is fetched to; what a killed process left there is removed."""
        coming = self.folder / f"{_COMING}.{name}"
        coming.unlink(missing_ok=True)
        return coming

    def _make_room(self, nbytes: int) -> None:
        """Remove the shards that were not used for longest, until so many bytes more are within the limit."""
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
        with FileLock(self.folder / _LOCKS / name):
            yield


def open_files(source: str, cache: Path | None, cache_limit: int | None) -> FolderInPlace | ShardCache:
    """The shards' files, in a folder or behind a URL.

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
    """Whether shards are in an object store, or anywhere else but in a folder."""
    return "://" in local_path(source)


def local_path(source: str) -> str:
    """The path, of ``file://`` and ``~`` too; other URLs as they are."""
    parsed = urlparse(source)
    if parsed.scheme == "file":
        return unquote(parsed.path)
    return source if "://" in source else str(Path(source).expanduser())


def _fetch(remote: str, local: Path) -> None:
    from streaming.base.storage import CloudDownloader

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            CloudDownloader.direct_download(remote, str(local), _TIMEOUT)
        except Exception as error:  # each store's own client has errors of its own
            local.unlink(missing_ok=True)
            if attempt == _ATTEMPTS or isinstance(error, FileNotFoundError | ValueError | ImportError):
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise DataError(f"{remote}: cannot be fetched: {reason}") from error
            time.sleep(_PAUSE * attempt)
        else:
            return


def _check(path: Path, shard: Shard, remote: str) -> None:
    """Raise ``DataError`` where a shard is not the one that was written."""
    from streaming.base.hashing import get_hash

    content = path.read_bytes()
    if len(content) != shard.nbytes or get_hash(HASH, content) != shard.hash:
        path.unlink()
        raise DataError(f"{remote}: is damaged: it is not the shard that {INDEX} describes; copy it there again")
