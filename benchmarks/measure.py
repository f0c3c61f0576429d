"""Time and memory of several functions that do the same thing, measured in turns."""

import contextlib
import ctypes
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

SEEDS = range(4)
"""Seeds of the calls in a round. The result is the mean over the seeds of the best time for each: the best time alone
would come from the seed that draws the least work."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of glibc's parameters for mallopt."""

Way = Callable[[], object]


def keep_freed_memory() -> None:
    """Make glibc keep all freed memory for the next call; without glibc nothing happens.

    Otherwise a call also pays for pages that the call before it returned to the system (measured: twice the time), and
    ratios depend on the order of the functions.
    """
    with contextlib.suppress(OSError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def best_seconds(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Seconds of one call of each function, the best of ``rounds``; they take turns, so that noise affects all alike.

    Without a GPU these are seconds of processor time, which does not count other processes.
    """
    for way in ways.values():
        _seconds(way, seed=0)  # the first call of anything is slower
    best = {(name, seed): math.inf for name in ways for seed in SEEDS}
    with _without_garbage_collection():
        for _, seed, (name, way) in itertools.product(range(rounds), SEEDS, ways.items()):
            best[name, seed] = min(best[name, seed], _seconds(way, seed))
    return {name: sum(best[name, seed] for seed in SEEDS) / len(SEEDS) for name in ways}


def peak_bytes(way: Way) -> int | None:
    """The peak of additional memory during one call, including its result.

    On a GPU it is the memory that torch allocates there. Otherwise it is the resident memory of the whole process,
    including that of torch, NumPy and OpenCV: Linux's VmHWM, reset before the call, after freed memory was returned to
    the system. None on systems without it.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _seconds(way, seed=0)
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _resident("VmRSS")
    torch.manual_seed(0)
    result = way()  # kept alive until the peak is read
    peak = _resident("VmHWM") - before
    del result
    return peak


def _seconds(way: Way, seed: int) -> float:
    torch.manual_seed(seed)
    if not torch.cuda.is_available():
        start = time.process_time()
        way()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
