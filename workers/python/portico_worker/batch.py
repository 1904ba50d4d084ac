"""Joint requests: one run for several callers, each with an answer of its own.

The body of a joint request holds plain HTTP/1.1 requests, one behind the other, of the sizes that x-portico-batch
names; the body of its answer holds theirs in the same order. On the status page it is one request.
"""

from __future__ import annotations

import logging
import signal
import time
from typing import TYPE_CHECKING, Any

from . import http1, responses
from . import loop as loops
from .http1 import Refused, Request
from .joint import Joint
from .log import LOGGER
from .settings import DEFAULT_SCORING_TIMEOUT_MS

if TYPE_CHECKING:
    from .loop import Connection, Loop

FIELD = b"x-portico-batch"
ITEMS_MAX = 256
ANSWERS_MAX = 64 << 20  # bytes of the bodies of all answers of a batch together

_log = logging.getLogger(LOGGER)


class _Job:
    """A request of a batch that is scored: where its answer belongs, and what every answer of it has."""

    __slots__ = ("identity", "ids", "index", "item")

    def __init__(self, index: int, identity: bytes, ids: bytes, item: Any) -> None:
        self.index = index
        self.identity = identity.decode("latin-1")
        self.ids = ids
        self.item = item


class Batches:
    """Serves joint requests for the loop; a part of it in a file of its own."""

    def __init__(self, loop: Loop, joint: Joint, routes: frozenset[bytes]) -> None:
        self._loop = loop
        self._joint = joint
        self._routes = routes

    def serve(self, connection: Connection, request: Request) -> bool:
        """Serve one joint request; whether the connection may be used again."""
        loop = self._loop
        try:
            number = request.number(b"x-portico-number")
            if not number:
                raise Refused(400, "a joint request needs x-portico-number")
            parts = split(request)
        except Refused as refused:
            return loop._send(connection, loops._plain(refused.status, refused.message))
        started = time.monotonic_ns()
        if not loop._page.start(number, started):
            return loop._send(connection, loops._not_started(b"withdrawn"))
        try:
            body = b"".join(self._answers(parts, number))
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
            # Sent before the page says that the request ended: who sees the end can read the answer.
            kept = loop._send(connection, head + body)
        finally:
            loop._now = now = time.monotonic_ns()
            loop._page.finish(now - started)
        return kept

    def _answers(self, parts: list[bytes], number: int) -> list[bytes]:
        answers = [b""] * len(parts)
        jobs = []
        for index, data in enumerate(parts):
            ids = self._loop._version
            try:
                request = _parse(data)
                if (request.deadline or request.fields.get(b"x-portico-deadline-ms")) == b"0":
                    answers[index] = loops._not_started(b"deadline")
                    continue
                identity, ids = self._loop._identify(request)
                if request.method != b"POST" or request.path not in self._routes:
                    raise Refused(404, loops._NOT_FOUND)
                jobs.append(_Job(index, identity, ids, self._joint.take(request)))
            except Refused as refused:
                answers[index] = loops._plain(refused.status, refused.message, ids + refused.fields + loops._FINE)
        if jobs:
            self._run(jobs, answers, number)
        return answers

    def _run(self, jobs: list[_Job], answers: list[bytes], number: int) -> None:
        """Score the jobs. Whatever ends the run itself is the answer of every one of them."""
        loop = self._loop
        trace = None
        self._enter(jobs[0], len(jobs) - 1)
        try:
            self._score(jobs, answers, number)
            return
        except loops.Canceled:
            _log.warning("canceled: no caller waits for an answer of this batch any more")
            status, message, failed = 503, "canceled", loops._FAILED
        except loops.ScoringTimeout:
            _log.error("scoring timeout after %d ms, for %d requests", loop._timeout_ms, len(jobs))
            status, message, failed = 500, f"Scoring timeout after {loop._timeout_ms} ms", loops._FAILED
        except responses.Unusable as error:
            _log.error("%s: they all fail", error)
            status, message, failed = 500, str(error) if loop._tracebacks else loops._INTERNAL, loops._FINE
        except BaseException as error:
            _log.error("run_batch() raised %s for %d requests", type(error).__name__, len(jobs), exc_info=error)
            status, message, failed = 500, loops._RAISED, loops._FAILED
            trace = loops._trace(error) if loop._tracebacks else None
        finally:
            loop._number = 0
            loop._logs.end_request()
        for job in jobs:
            answers[job.index] = loops._plain(status, message, job.ids + failed, False, trace)

    def _score(self, jobs: list[_Job], answers: list[bytes], number: int) -> None:
        loop = self._loop
        alarm = loop._timeout_ms < DEFAULT_SCORING_TIMEOUT_MS
        items = [job.item for job in jobs]
        began = time.perf_counter_ns()
        try:
            loop._number = number
            if alarm:
                loop._alarm_for = number
                signal.setitimer(signal.ITIMER_REAL, loop._timeout_ms / 1000, loops.ALARM_REPEAT_S)
            results = loop._execute(lambda: self._joint.run(items))
            took = time.perf_counter_ns() - began
            left = ANSWERS_MAX
            for job, result in zip(jobs, results):
                self._enter(job)
                answers[job.index], size = self._one(job, result, took, left)
                left -= size
        finally:
            loop._number = 0
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _one(self, job: _Job, result: Any, took: int, left: int) -> tuple[bytes, int]:
        """The answer of one request, and the size of its body where that counts."""
        loop = self._loop
        try:
            if isinstance(result, Exception):
                raise result
            answer = responses.convert(result)
            body = answer.body
            if answer.stream is not None:
                body = self._gather(answer.stream, left)
            if len(body) > left:
                raise responses.Unusable(f"the answers of a batch have more than {ANSWERS_MAX} bytes together")
        except responses.Unusable as error:
            _log.error("%s", error)
            message = str(error) if loop._tracebacks else loops._INTERNAL
            return loops._plain(500, message, job.ids + loops._FINE), 0
        except Exception as error:
            _log.error("this request of a batch failed: %s", type(error).__name__, exc_info=error)
            trace = loops._trace(error) if loop._tracebacks else None
            return loops._plain(500, loops._RAISED, job.ids + loops._FAILED, False, trace), 0
        return loops._head(answer, job.ids, took) + b"content-length: %d\r\n\r\n%b" % (len(body), body), len(body)

    def _gather(self, stream: responses.Stream, left: int) -> bytes:
        """A stream as a whole: a batch has one answer, so none of its parts can come before the others."""
        pieces = []
        try:
            while piece := self._loop._execute(stream.piece):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    break
        finally:
            self._loop._end_stream(stream)
        return b"".join(pieces)

    def _enter(self, job: _Job, others: int = 0) -> None:
        """Join log lines to the request."""
        self._loop._logs.journal.request = f"{job.identity}+{others}" if others else job.identity


def split(request: Request) -> list[bytes]:
    """The requests in a body; raises Refused."""
    sizes = request.fields.get(FIELD, b"").split(b",")
    if len(sizes) > ITEMS_MAX or not all(http1.NUMBER.fullmatch(size) for size in sizes):
        raise Refused(400, "malformed x-portico-batch")
    body = bytes(request.body)
    parts = []
    at = 0
    for size in map(int, sizes):
        parts.append(body[at : at + size])
        at += size
    if at != len(body):
        raise Refused(400, "x-portico-batch does not add up to the body")
    return parts


def _parse(data: bytes) -> Request:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise Refused(400, "malformed request line")
    request = http1.parse_head(data[: end + 2])
    request.body = data[end + 4 :]
    if len(request.body) != request.length:
        raise Refused(400, "content-length is not the size of the body")
    return request
