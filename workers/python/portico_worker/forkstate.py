"""What a forked worker must not share with its fork server: random numbers, sizes of thread pools, marks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

MARK = "PORTICO_PROCESS"  # the variable by which the supervisor finds what a process started
_ENV_START, _ENV_END = 50 - 3, 51 - 3  # fields of /proc/self/stat, counted from the state

# Numeric libraries by a part of their file's name, the variables that size their thread pools, first found first, and
# the functions that do it afterwards. OpenBLAS comes under several names.
_POOLS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "openblas",
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
        tuple(f"{p}openblas_set_num_threads{s}" for p in ("", "scipy_") for s in ("", "64_", "_64")),
    ),
    ("libmkl_rt", ("MKL_NUM_THREADS", "OMP_NUM_THREADS"), ("MKL_Set_Num_Threads",)),
    ("libblis", ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"), ("bli_thread_set_num_threads",)),
    ("gomp", ("OMP_NUM_THREADS",), ("omp_set_num_threads",)),
    ("omp", ("OMP_NUM_THREADS",), ("omp_set_num_threads",)),
)


class ReadVariables:
    """Within it, the names of environment variables that Python code reads are noted."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._own = type(os.environ)

    def __enter__(self) -> ReadVariables:
        names = self.names

        class Watched(self._own):  # type: ignore[misc, name-defined]
            def __getitem__(self, key: str) -> Any:
                names.add(key)
                return super().__getitem__(key)

        os.environ.__class__ = Watched
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.__class__ = self._own


def reseed() -> None:
    """Give the generators that everybody shares a state of this process's own. random has done so at the fork."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
    ids = sys.modules.get("uuid")
    if ids is not None:
        vars(ids)["_node"] = None  # made up at random on machines without a network card
        vars(ids)["_last_timestamp"] = None


def set_threads() -> None:
    """Size the thread pools of libraries that are loaded already as the environment says; they were loaded with one."""
    if all(os.environ.get(name, "1") == "1" for _, names, _ in _POOLS for name in names):
        return
    for path in _libraries():
        base = os.path.basename(path)
        for part, variables, functions in _POOLS:
            if part in base:
                _set(path, variables, functions)
                break
    torch = sys.modules.get("torch")
    count = _count(("OMP_NUM_THREADS",))
    if torch is not None and count:
        torch.set_num_threads(count)
    numexpr = sys.modules.get("numexpr")
    count = _count(("NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS"))
    if numexpr is not None and count:
        with contextlib.suppress(ValueError):  # more than NUMEXPR_MAX_THREADS, as which it would be started anew too
            numexpr.set_num_threads(count)


def _set(path: str, variables: tuple[str, ...], functions: tuple[str, ...]) -> None:
    count = _count(variables)
    if not count:
        return
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(path)
        for name in functions:
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(count))


def _count(variables: tuple[str, ...]) -> int:
    text = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    return int(text) if text.isdecimal() else 0


def _libraries() -> Iterator[str]:
    """The shared libraries that are mapped, once each."""
    seen = set()
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if ".so" in path and path not in seen:
                seen.add(path)
                yield "/" + path


def replace_mark(old: str, new: str) -> None:
    """Put the new mark where the kernel shows the environment that the process was started with.

    Where there are no cgroups the supervisor finds by it what belongs to whom, and a fork has its parent's.
    """
    if not old or len(old) != len(new):
        return
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    start, end = int(fields[_ENV_START]), int(fields[_ENV_END])
    text = ctypes.string_at(start, end - start)
    at = text.find(f"{MARK}={old}\0".encode())
    if at >= 0:
        ctypes.memmove(start + at + len(MARK) + 1, new.encode(), len(new))
