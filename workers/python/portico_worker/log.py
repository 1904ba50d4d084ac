"""Log lines: logging, print() and uncaught tracebacks, one line each, joined to the request that was running.

A line is `2026-11-23 08:15:30,123 I [4711] azmlinfsrv.print - text`, in UTC. While a request runs, its id stands
in the bracket: `[4711 0b9c5a1e-...]`. What user code writes to descriptor 1 or 2 without Python passes as it is.
"""

from __future__ import annotations

import io
import json
import logging
import logging.config
import os
import sys
import threading
import time
from typing import Any, Callable, TextIO

LOGGER = "azmlinfsrv"
PARTIAL_MAX = 8192  # characters of a line without an end that are kept before they become a line of their own
_LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}


class Journal:
    """Where lines go, and which request they belong to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._second = -1
        self._stamp = ""
        self._pid = os.getpid()
        self.request = ""
        # A cancel that arrived inside this module is raised at its edge, so that no line is torn in two.
        self.owed = False
        self.pay: Callable[[], None] = lambda: None

    def forked(self) -> None:
        """Take the new process id after a fork."""
        self._pid = os.getpid()
        self.owed = False

    def line(self, level: str, name: str, text: str, when: float | None = None) -> None:
        """Write the lines of text."""
        now = time.time() if when is None else when
        second = int(now)
        stamp = self._stamp
        if second != self._second:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))
            self._stamp, self._second = stamp, second
        who = f"{self._pid} {self.request}" if self.request else str(self._pid)
        head = f"{stamp},{int((now - second) * 1000):03d} {level} [{who}] {name} - "
        lines = text.split("\n") if "\n" in text else (text,)
        self._write("".join([f"{head}{one}\n" for one in lines]).encode("utf-8", "backslashreplace"))

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                data = data[written:]
                written = os.write(self._fd, data)
        except OSError:
            return  # nobody reads any more; a scoring request must not fail for it


class LineStream(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr: every line of text becomes a log line."""

    def __init__(self, journal: Journal, name: str, level: str, raw: TextIO) -> None:
        super().__init__()
        self._journal = journal
        self._name = name
        self._level = level
        self._raw = raw
        self._lock = threading.RLock()
        self.partial: dict[int, str] = {}  # by thread: text after the last line end

    @property
    def buffer(self) -> Any:
        """The binary stream below: what is written there passes as it is."""
        return self._raw.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Text is written as UTF-8."""
        return "utf-8"

    def fileno(self) -> int:
        """The descriptor, for subprocesses."""
        return self._raw.fileno()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Log every line that text ends."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            me = threading.get_ident()
            whole = self.partial.pop(me, "") + text
            lines, end, rest = whole.rpartition("\n")
            if end:
                self._emit(lines)
            if len(rest) > PARTIAL_MAX:
                self._emit(rest)
                rest = ""
            if rest:
                self.partial[me] = rest
        if self._journal.owed:
            self._journal.pay()
        return len(text)

    def _emit(self, lines: str) -> None:
        if "\r" in lines:  # a progress bar overwrites its line: keep what would be seen
            lines = "\n".join(one.rstrip("\r").rpartition("\r")[2] for one in lines.split("\n"))
        self._journal.line(self._level, self._name, lines)

    def finish(self) -> None:
        """Log what this thread left without a line end."""
        with self._lock:
            rest = self.partial.pop(threading.get_ident(), "")
            if rest:
                self._emit(rest)

    def forked(self) -> None:
        """Make the stream usable in a forked child, whatever the other threads held."""
        self._lock = threading.RLock()
        self.partial = {}


class _Handler(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._journal.line(record.levelname[:1], record.name, self.format(record), record.created)
        except Exception:
            self.handleError(record)
        if self._journal.owed:
            self._journal.pay()


class ReferenceFormatter(logging.Formatter):
    """Formats as the reference server does, for a logging.json that names its formatter."""

    def __init__(
        self,
        fmt: str = "%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s",
        datefmt: str | None = None,
        style: Any = "%",
    ) -> None:
        super().__init__(fmt, datefmt, style)
        self.converter = time.gmtime


class HealthFilter(logging.Filter):
    """Passes everything but access lines of the health page, for a logging.json that names it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        return "GET / HTTP/1.1" not in record.getMessage()


def request_id() -> str:
    """The id of the request that runs; empty: none does."""
    return _journals[-1].request if _journals else ""


_journals: list[Journal] = []  # of this process: none, or the one in force


class Logs:
    """Everything that writes lines: the journal, both streams and the root logger's handler."""

    def __init__(self) -> None:
        self.journal = Journal(1)
        _journals[:] = [self.journal]
        self.out = LineStream(self.journal, LOGGER + ".print", "I", sys.__stdout__)  # type: ignore[arg-type]
        self.err = LineStream(self.journal, LOGGER + ".stderr", "W", sys.__stderr__)  # type: ignore[arg-type]
        sys.stdout, sys.stderr = self.out, self.err
        handler = _Handler(self.journal)
        handler.setFormatter(logging.Formatter("%(message)s"))
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel("INFO")
        logging.captureWarnings(True)
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.journal.forked()
        self.out.forked()
        self.err.forked()

    def configure(self, directories: list[str]) -> None:
        """Take the level from the environment, and all else from a logging.json beside the script if there is one."""
        level = os.environ.get("AZUREML_LOG_LEVEL", "INFO").upper()
        logging.getLogger().setLevel(level if level in _LEVELS else "INFO")
        path = next((p for p in (os.path.join(d, "logging.json") for d in directories) if os.path.isfile(p)), None)
        if path is None:
            return
        # What the file's own handlers format must not be made into log lines a second time.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        try:
            with open(path, encoding="utf-8") as file:
                logging.config.dictConfig(json.load(file))
        finally:
            sys.stdout, sys.stderr = self.out, self.err
        for name in (LOGGER, *(n for n in logging.root.manager.loggerDict if n.startswith(LOGGER + "."))):
            logging.getLogger(name).disabled = False  # dictConfig disables what the file does not name: not our reasons

    def end_request(self) -> None:
        """Log partial lines and leave the request."""
        if self.out.partial:
            self.out.finish()
        if self.err.partial:
            self.err.finish()
        self.journal.request = ""
