"""The status page: 4096 bytes of memory shared with the pool, read by it at any moment, also after a crash."""

from __future__ import annotations

import mmap
import sys
import threading

SIZE = 4096
MAGIC = 0x50525431

# States of a worker.
STARTING, INIT_RUNNING, READY, FAILED = 0, 1, 2, 3

# Kinds of failure. SCRIPT: the script breaks its contract or cannot be imported, and starting again cannot help.
SCRIPT, IMPORT, INIT = 1, 2, 3

# Indexes of the 64-bit words. The first word holds magic (low half) and state (high half).
HEAD, RUNNING, NEWEST, STARTED_NS, CANCEL, FINISHED, READY_NS, KIND, BUSY_NS = range(9)

_TEXT = 256  # u16 length, then UTF-8
_TEXT_MAX = 1700
_WITHDRAWN = 2048 // 8
WITHDRAWN_SLOTS = 256
UNNUMBERED = 1 << 63  # requests without a number, from a person's curl, get one from here on


class Page:
    """The mapped page. Every word is written with one 8-byte store, so that a reader never sees half of one."""

    def __init__(self, fd: int) -> None:
        if sys.byteorder != "little":
            raise SystemExit("portico_worker needs a little-endian machine")
        self._map = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.words = memoryview(self._map).cast("Q")
        self._fence = threading.Lock()
        self._fence.acquire()
        self.words[HEAD] = MAGIC

    def detach(self) -> None:
        """Write to memory of this process alone from now on: a forked child must not touch the shared page."""
        self.words = memoryview(bytearray(SIZE)).cast("Q")

    def set_state(self, state: int) -> None:
        """Tell the pool where in its life the worker is."""
        self.words[HEAD] = state << 32 | MAGIC

    def fail(self, kind: int, reason: str) -> None:
        """Tell why the worker cannot serve, in one sentence."""
        text = " ".join(reason.split()).encode("utf-8", "replace")[:_TEXT_MAX]
        text = text.decode("utf-8", "ignore").encode()
        self._map[_TEXT + 2 : _TEXT + 2 + len(text)] = text
        self._map[_TEXT : _TEXT + 2] = len(text).to_bytes(2, "little")
        self.words[KIND] = kind
        self.set_state(FAILED)

    def start(self, number: int, now_ns: int) -> bool:
        """Claim a request. False: the pool has withdrawn it, and it must not run.

        The pool writes the withdrawal and then reads RUNNING; the worker writes RUNNING and then reads the
        withdrawal. With a full memory barrier between the two steps on both sides at least one sees the
        other, so a withdrawn request can be sent elsewhere and is never executed twice. Releasing and
        taking a lock is that barrier on every processor Python runs on.
        """
        words = self.words
        words[STARTED_NS] = now_ns
        if number < UNNUMBERED:
            words[NEWEST] = number
        words[RUNNING] = number
        self._fence.release()
        self._fence.acquire()
        if words[_WITHDRAWN + number % WITHDRAWN_SLOTS] == number:
            words[RUNNING] = 0
            return False
        return True

    def finish(self, busy_ns: int) -> None:
        """Note that the running request has ended. Its answer is written already."""
        words = self.words
        words[BUSY_NS] += busy_ns
        words[FINISHED] += 1
        words[RUNNING] = 0
