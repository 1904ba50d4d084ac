"""The loop: connections, one request after the other, cancellation, and the way out."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from types import FrameType
from typing import TYPE_CHECKING, Any, Callable

from . import VERSION, cors, hints, http1, log, openapi, responses, settings
from .http1 import Refused, Request
from .log import LOGGER
from .page import CANCEL, READY_NS, UNNUMBERED, Page
from .script import Scorer
from .settings import DEFAULT_SCORING_TIMEOUT_MS

if TYPE_CHECKING:
    from .batch import Batches

CONNECTIONS_MAX = 64
CHUNK = 65536  # bytes asked of a socket at once
SEND_TIMEOUT_MS = 30_000  # without a byte taken by the reader, the connection is closed
STALE_NS = 1_000_000  # age of an answer of poll after which it is asked again
IDLE_MS = 1000  # how long a signal may stay unnoticed if user code took the wake-up descriptor away
ID_MAX = 100  # characters of a request id
ALARM_REPEAT_S = 0.05

_log = logging.getLogger(LOGGER)

_IN, _GONE = select.POLLIN, select.POLLHUP | select.POLLERR | select.POLLNVAL
if sys.platform == "linux":
    _GONE |= select.POLLRDHUP
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # user code may have given SIGPIPE its default action back


class Canceled(BaseException):
    """Raised inside run() when the caller no longer wants the answer."""


class ScoringTimeout(BaseException):
    """Raised inside run() when SCORING_TIMEOUT_MS is over."""


class Connection:
    """One keep-alive connection of the pool, with at most one request on it."""

    __slots__ = ("body", "fd", "filled", "head", "request", "served", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.served = 0  # when it was last served: who waits longest comes first
        self.head = b""
        self.request: Request | None = None  # whose body is being read
        self.body = bytearray()
        self.filled = 0


class Loop:
    """Serves one script. Everything happens on the thread that made it, which must be the main thread."""

    def __init__(
        self, listener: socket.socket, page: Page, script: Scorer, documents: openapi.Documents, logs: log.Logs
    ) -> None:
        self._listener = listener
        self._page = page
        self._script = script
        self._documents = documents
        self._logs = logs
        self._batches: Batches | None = None
        if script.joint is not None:
            from .batch import Batches  # built upon this module

            self._batches = Batches(self, script.joint, script.routes)
        self._number = 0  # of the running request
        self._now = 0  # when the newest request ended, or poll was asked last
        self._alarm_for = 0
        self._unnumbered = UNNUMBERED
        self._stopping = False
        self._connections: dict[int, Connection] = {}
        self._full = False  # CONNECTIONS_MAX are open
        self._main = threading.get_ident()
        self._timeout_ms = settings.number("SCORING_TIMEOUT_MS", DEFAULT_SCORING_TIMEOUT_MS)
        self._tracebacks = settings.flag("PORTICO_WORKER_DEBUG", False)
        self._hinted = False
        origins = os.environ.get("AML_CORS_ORIGINS", "")
        self._origins = cors.Origins(origins) if origins else None
        shown = settings.flag("SERVER_VERSION_LOG_RESPONSE_ENABLED", True)
        self._version = b"x-ms-server-version: portico/%b\r\n" % VERSION.encode() if shown else b""
        self._poll: Any = select.epoll() if sys.platform == "linux" else select.poll()
        self._idle = IDLE_MS / 1000 if sys.platform == "linux" else IDLE_MS
        self._wake, self._waker = socket.socketpair()
        listener.setblocking(False)
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._poll.register(listener.fileno(), _IN)
        self._poll.register(self._wake.fileno(), _IN)
        logs.journal.pay = self._pay
        os.register_at_fork(after_in_child=self._forked)

    # -- signals --

    def listen_to_signals(self) -> None:
        """Take SIGTERM, SIGUSR1 and SIGALRM from now on. init() may have set handlers of its own; ours win."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_cancel)
        signal.signal(signal.SIGALRM, self._on_alarm)

    def _on_stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _on_cancel(self, _signum: int, frame: FrameType | None) -> None:
        number = self._number
        if number and self._page.words[CANCEL] == number and self._may_raise(frame):
            raise Canceled

    def _on_alarm(self, _signum: int, frame: FrameType | None) -> None:
        if self._number and self._alarm_for == self._number and self._may_raise(frame):
            raise ScoringTimeout

    def _may_raise(self, frame: FrameType | None) -> bool:
        """Whether an exception raised now would surface in _execute's caller.

        True only while _execute is on the stack, that is, while run() of the current request is: what is raised
        there is caught by _answer, and nothing else can be hit. Inside log.py the exception is owed and
        raised when the line is written.
        """
        while frame is not None:
            if frame.f_code is _EXECUTE:
                return True
            if frame.f_code.co_filename == log.__file__:
                self._logs.journal.owed = True
                return False
            frame = frame.f_back
        return False

    def _pay(self) -> None:
        """Called by log.py at its edge when a cancel was owed."""
        if threading.get_ident() != self._main:
            return
        self._logs.journal.owed = False
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code is not _EXECUTE:
            frame = frame.f_back
        if frame is None or not self._number:
            return
        if self._page.words[CANCEL] == self._number:
            raise Canceled
        if self._alarm_for == self._number:
            raise ScoringTimeout

    def _forked(self) -> None:
        """A child of user code must not answer, hold connections open, or react to the pool's signals."""
        for connection in self._connections.values():
            connection.sock.close()
        self._connections.clear()
        self._listener.close()
        if sys.platform == "linux":
            self._poll.close()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        self._number = 0
        self._stopping = True
        self._page.detach()

    # -- connections --

    def awaited(self) -> bool:
        """Whether somebody waits to be answered already."""
        return bool(self._poll.poll(0))

    def serve(self) -> None:
        """Answer requests until SIGTERM."""
        self._page.words[READY_NS] = time.monotonic_ns()
        connections = self._connections
        idle: float = 0
        while not self._stopping:
            events = self._poll.poll(idle)
            if not idle and not events:  # for the first time
                hints.tell()
                idle = self._idle
            if len(events) > 1:
                events.sort(key=self._waiting_since)
            asked = self._now = time.monotonic_ns()
            for fd, mask in events:
                connection = connections.get(fd)
                if connection is None:
                    self._other(fd, mask)
                elif mask & _GONE:
                    self._close(connection)
                else:
                    self._read(connection)
                    # After a long run the remaining events are old: their callers may have hung up meanwhile.
                    if self._stopping or self._now - asked > STALE_NS:
                        break
        for connection in list(connections.values()):
            self._close(connection)
        self._listener.close()

    def _waiting_since(self, event: tuple[int, int]) -> int:
        connection = self._connections.get(event[0])
        return connection.served if connection is not None else 0

    def _other(self, fd: int, mask: int) -> None:
        if mask & _GONE:
            raise OSError(errno.EBADF, "user code has shut down or closed a socket of the worker, which cannot go on")
        if fd == self._wake.fileno():
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(CHUNK):
                    pass
        elif fd == self._listener.fileno():
            self._accept()

    def _accept(self) -> None:
        while len(self._connections) < CONNECTIONS_MAX:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    _log.error("cannot accept a connection: %s", error)
                    time.sleep(0.05)
                    return
                continue
            sock.setblocking(False)
            connection = Connection(sock)
            self._connections[connection.fd] = connection
            self._poll.register(connection.fd, _IN | (_GONE & ~select.POLLNVAL))
        self._poll.unregister(self._listener.fileno())  # the others wait where they are until one closes
        self._full = True

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is not None:
            self._poll.unregister(connection.fd)
            connection.sock.close()
            if self._full:
                self._poll.register(self._listener.fileno(), _IN)
                self._full = False

    def _read(self, connection: Connection) -> None:
        try:
            request = self._receive(connection)
        except Refused as refused:
            self._send(connection, _plain(refused.status, refused.message, b"connection: close\r\n"))
            self._close(connection)
            return
        if request is None:
            return
        keep = self._answer(connection, request)
        connection.served = self._now
        if not keep or request.head.closes:
            self._close(connection)

    def _receive(self, connection: Connection) -> Request | None:
        """Take what the socket has. A request when it is complete, None otherwise; raises Refused."""
        if connection.request is not None:
            return self._receive_body(connection, connection.request)
        try:
            data = connection.sock.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return None
        if connection.head:
            data, connection.head = connection.head + data, b""
        end = data.find(b"\r\n\r\n")
        if end > http1.HEAD_MAX or (end < 0 and len(data) > http1.HEAD_MAX):
            raise Refused(431, "the request head is too large")
        if end < 0:
            connection.head = data
            return None
        request = http1.parse_head(data[: end + 2])
        body = data[end + 4 :]
        if len(body) == request.length:
            request.body = body
            return request
        if len(body) > request.length:
            raise Refused(400, "bytes follow the request; one request may be outstanding")
        connection.request = request
        connection.body = bytearray(request.length)
        connection.body[: len(body)] = body
        connection.filled = len(body)
        return None

    def _receive_body(self, connection: Connection, request: Request) -> Request | None:
        try:
            n = connection.sock.recv_into(memoryview(connection.body)[connection.filled :])
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            n = 0
        if n == 0:
            self._close(connection)
            return None
        connection.filled += n
        if connection.filled < request.length:
            return None
        request.body = connection.body
        connection.request, connection.body = None, bytearray()
        return request

    def _send(self, connection: Connection, data: bytes) -> bool:
        """Write an answer. False when the reader is gone, or takes nothing for SEND_TIMEOUT_MS."""
        sock = connection.sock
        try:
            sent = sock.send(data, _NO_SIGNAL)
            if sent == len(data):
                return True
            rest = memoryview(data)[sent:]
        except BlockingIOError:
            rest = memoryview(data)
        except OSError:
            return False
        writable = select.poll()
        writable.register(connection.fd, select.POLLOUT)
        while rest:
            if not writable.poll(SEND_TIMEOUT_MS):
                return False
            try:
                rest = rest[sock.send(rest, _NO_SIGNAL) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    # -- requests --

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Serve one request; whether the connection may be used again."""
        path = request.path
        if self._batches is not None and b"x-portico-batch" in request.fields:
            return self._batches.serve(connection, request)
        if path in self._script.routes:
            return self._score(connection, request)
        if path == b"/":
            return self._health(connection, request)
        if path == b"/swagger.json":
            return self._send(connection, self._describe(request))
        return self._send(connection, _plain(404, _NOT_FOUND, _FINE, request.method == b"HEAD"))

    def _health(self, connection: Connection, request: Request) -> bool:
        if request.method not in (b"GET", b"HEAD"):
            return self._send(connection, _plain(405, _NOT_ALLOWED, _FINE))
        try:
            ids = self._identify(request)[1]
        except Refused as refused:
            fields = self._version + refused.fields + _FINE
            return self._send(connection, _plain(refused.status, refused.message, fields))
        body = b"" if request.method == b"HEAD" else b"Healthy"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 7\r\n%b\r\n"
        return self._send(connection, head % ids + body)

    def _describe(self, request: Request) -> bytes:
        headless = request.method == b"HEAD"
        if request.method not in (b"GET", b"HEAD"):
            return _plain(405, _NOT_ALLOWED, _FINE)
        ids = self._version
        try:
            ids = self._identify(request)[1]
            body = self._documents.get(request.query)
        except Refused as refused:
            return _plain(refused.status, refused.message, ids + refused.fields + _FINE, headless)
        except Exception as error:
            _log.error("the service cannot be described", exc_info=error)
            return _plain(500, _INTERNAL, ids + _FINE, headless)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b%bcontent-length: %d\r\n\r\n"
        return head % (_FINE, ids, len(body)) + (b"" if headless else body)

    def _score(self, connection: Connection, request: Request) -> bool:
        number, left = request.sequence, request.deadline
        if number is None:
            try:
                number = request.number(b"x-portico-number")
            except Refused as refused:
                return self._send(connection, _plain(refused.status, refused.message))
            left = request.fields.get(b"x-portico-deadline-ms")
            if number is None:
                self._unnumbered += 1
                number = self._unnumbered
        if number == 0:
            return self._send(connection, _plain(400, "x-portico-number must not be 0"))
        if left == b"0":
            return self._send(connection, _not_started(b"deadline"))
        started = time.monotonic_ns()
        if not self._page.start(number, started):
            return self._send(connection, _not_started(b"withdrawn"))
        try:
            answer = self._run(request, number)
            # Sent before the page says that the request ended: who sees the end can read the answer.
            if type(answer) is bytes:
                kept = self._send(connection, answer)
            else:
                kept = self._send_stream(connection, request, number, *answer)
        finally:
            self._now = now = time.monotonic_ns()
            self._page.finish(now - started)
        return kept

    def _identify(self, request: Request) -> tuple[bytes, bytes]:
        """The request's id, and the fields that every answer of a known route has; raises Refused."""
        identity = request.identity
        if identity is not None and len(identity) <= ID_MAX:
            rest = request.head.ids
            if rest is None and _VARYING.isdisjoint(request.head.fields) and self._origins is None:
                rest = request.head.ids = self._version
            if rest is not None:
                return identity, b"x-request-id: %b\r\nx-ms-request-id: %b\r\n%b" % (identity, identity, rest)
        fields = request.fields
        given = fields.get(b"x-request-id")
        identity = str(uuid.uuid4()).encode() if given is None else given
        legacy = fields.get(b"x-ms-request-id")
        client = fields.get(b"x-ms-client-request-id") or legacy
        legacy = legacy or client or identity
        if len(identity) > ID_MAX:
            raise Refused(431, f"x-request-id must not exceed {ID_MAX} characters")
        if len(legacy) > ID_MAX or (client is not None and len(client) > ID_MAX):
            text = f"x-ms-request-id and x-ms-client-request-id must not exceed {ID_MAX} characters"
            raise Refused(431, text, b"x-request-id: %b\r\n" % identity)
        ids = b"x-request-id: %b\r\nx-ms-request-id: %b\r\n" % (identity, legacy)
        if client:
            ids += b"x-ms-client-request-id: %b\r\n" % client
        ids += self._version
        trace = fields.get(b"traceid")
        if trace:
            ids += b"TraceId: %b\r\n" % trace
        if self._origins is not None:
            ids += self._origins.fields(request)
        return identity, ids

    def _run(self, request: Request, number: int) -> bytes | tuple[bytes, bytes, responses.Stream]:
        """The answer; for a stream its head, its first piece and what gives the others."""
        ids = self._version
        try:
            identity, ids = self._identify(request)
            method = request.method
            if method != b"POST" and (method not in _METHODS or (method != b"GET" and not self._script.any_method)):
                return _not_for_run(request, ids)
            call = self._script.bind(request)
        except Refused as refused:
            return _plain(refused.status, refused.message, ids + refused.fields + _FINE, request.method == b"HEAD")
        self._logs.journal.request = identity.decode("latin-1")
        try:
            return self._call(call, number, ids, method == b"HEAD")
        finally:
            self._number = 0
            self._logs.end_request()

    def _call(
        self, call: Callable[[], Any], number: int, ids: bytes, headless: bool
    ) -> bytes | tuple[bytes, bytes, responses.Stream]:
        alarm = self._timeout_ms < DEFAULT_SCORING_TIMEOUT_MS
        began = time.perf_counter_ns()
        piece = b""
        try:
            self._number = number
            if alarm:
                self._alarm_for = number
                signal.setitimer(signal.ITIMER_REAL, self._timeout_ms / 1000, ALARM_REPEAT_S)
            result = self._execute(call)
            took = time.perf_counter_ns() - began
            if type(result) in responses.PLAIN and not headless:
                body = responses.json_body(result)
                if self._hinted or type(result) is not str:
                    return _SCORED % (ids, took / 1e6, len(body), body)
            answer = responses.convert(result)
            if answer.stream is not None:  # its first piece comes before the head, so that a failure can be told
                piece = self._execute(answer.stream.piece)
        except Canceled:
            _log.warning("canceled: the caller no longer waits for the answer")
            return _plain(503, "canceled", ids + _FAILED)
        except ScoringTimeout:
            _log.error("scoring timeout after %d ms", self._timeout_ms)
            return _plain(500, f"Scoring timeout after {self._timeout_ms} ms", ids + _FAILED)
        except responses.Unusable as error:
            _log.error("%s", error)
            return _plain(500, str(error) if self._tracebacks else _INTERNAL, ids + _FINE)
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: ending the worker would cost every other caller the model.
            _log.error("run() raised %s", type(error).__name__, exc_info=error)
            return _plain(500, _RAISED, ids + _FAILED, headless, _trace(error) if self._tracebacks else None)
        finally:
            self._number = 0
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if not self._hinted and type(result) is str and result[:1] in ("{", "["):
            self._hinted = True
            _log.warning("%s", hints.JSON_TEXT)
        head = _head(answer, ids, took)
        if answer.stream is not None:
            return head + b"transfer-encoding: chunked\r\n\r\n", piece, answer.stream
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(answer.body), b"" if headless else answer.body)

    def _send_stream(
        self, connection: Connection, request: Request, number: int, head: bytes, piece: bytes, stream: responses.Stream
    ) -> bool:
        """Send pieces as the script makes them. Whether the connection may be used again: only after a whole body."""
        self._logs.journal.request = request.fields.get(b"x-request-id", b"").decode("latin-1")
        self._number = number
        try:
            if request.method == b"HEAD":
                return self._send(connection, head)
            data = head
            while piece:
                if not self._send(connection, b"%b%x\r\n%b\r\n" % (data, len(piece), piece)):
                    _log.warning("the caller left before the end of the stream")
                    return False
                data = b""
                piece = self._execute(stream.piece)
            return self._send(connection, data + b"0\r\n\r\n")
        except Canceled:
            _log.warning("canceled: the caller no longer waits for the rest of the stream")
        except BaseException as error:
            _log.error("the stream of an answer broke off: %s", type(error).__name__, exc_info=error)
        finally:
            self._end_stream(stream)
            self._number = 0
            self._logs.end_request()
        return False

    def _end_stream(self, stream: responses.Stream) -> None:
        try:
            self._execute(stream.close)
        except BaseException as error:
            _log.error("closing a stream raised %s", type(error).__name__, exc_info=error)

    @staticmethod
    def _execute(call: Callable[[], Any]) -> Any:
        """The frame below which a cancel may raise; nothing else may be added here."""
        return call()


_EXECUTE = Loop._execute.__code__
_SCORED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-ms-run-function-failed: False\r\n%b"
    b"x-ms-run-fn-exec-ms: %.3f\r\ncontent-length: %d\r\n\r\n%b"
)
_FINE = b"x-ms-run-function-failed: False\r\n"
_FAILED = b"x-ms-run-function-failed: True\r\n"
_VARYING = frozenset(
    (b"x-ms-request-id", b"x-ms-client-request-id", b"traceid")
)  # what an answer repeats beside its id
_METHODS = (b"GET", b"POST", b"OPTIONS", b"HEAD")
_RAISED = "An unexpected error occurred in scoring script. Check the logs for more info."
_INTERNAL = "An unexpected internal error occurred. Check the logs for more info."
_NOT_ALLOWED = "The method is not allowed for the requested URL."
_NOT_FOUND = (
    "The requested URL was not found on the server. If you entered the URL manually please check your spelling "
    "and try again."
)


def _reason(status: int) -> bytes:
    return http1.REASONS.get(status, "Unknown").encode()


def _head(answer: responses.Answer, ids: bytes, took_ns: int) -> bytes:
    """The head of an answer without the field that says how its body ends."""
    return b"HTTP/1.1 %d %b\r\n%b%b%bx-ms-run-fn-exec-ms: %.3f\r\n" % (
        answer.status,
        _reason(answer.status),
        answer.fields,
        _FAILED if answer.failed else _FINE,
        ids,
        took_ns / 1e6,
    )


def _plain(
    status: int, message: str, fields: bytes = b"", headless: bool = False, trace: list[str] | None = None
) -> bytes:
    """An answer whose body is {"message": ...}, as the reference server's errors are."""
    body = responses.encode({"message": message} if trace is None else {"message": message, "traceback": trace})
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n" % (
        status,
        _reason(status),
        fields,
        len(body),
    )
    return head if headless else head + body


def _not_started(why: bytes) -> bytes:
    return b"HTTP/1.1 503 Service Unavailable\r\nx-portico-not-started: %b\r\ncontent-length: 0\r\n\r\n" % why


def _not_for_run(request: Request, ids: bytes) -> bytes:
    """Answers to methods that an undecorated run() does not see."""
    if request.method == b"OPTIONS":
        kind = b"content-type: text/html; charset=utf-8\r\n"
        return b"HTTP/1.1 200 OK\r\n%bcontent-length: 0\r\n%b%b\r\n" % (kind, _FINE, ids)
    if request.method == b"HEAD":
        return _plain(405, "Method not allowed", ids + _FINE, True)
    return _plain(405, _NOT_ALLOWED, _FINE)


def _trace(error: BaseException) -> list[str]:
    """The traceback in lines, without the frames of this package."""
    trace = error.__traceback__
    here = os.path.dirname(__file__)
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == here:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).splitlines()
