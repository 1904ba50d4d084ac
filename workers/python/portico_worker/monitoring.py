"""What stands in for the package azureml-ai-monitoring: data frames that a script collects are sent to the collector.

The settings are the package's own: AZUREML_MDC_HOST and AZUREML_MDC_PORT say where the collector is, and the file that
AZUREML_MDC_CONFIG_PATH names which collections are enabled. A deployment of Portico has both. collect() only puts an
event into a bounded queue; a thread sends what is there, and tries again while the collector is away.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import logging
import os
import queue
import random
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, Callable

from . import VERSION, log
from .log import LOGGER

QUEUE_MAX = 1500  # events that wait to be sent
QUEUE_BYTES_MAX = 64 << 20  # of their data
TRY_S = 300.0  # how long one event is tried while the collector is away
ANSWER_S = 30.0  # for one try
PAUSE_S = 0.05  # after the first try; it doubles up to PAUSE_MAX_S
PAUSE_MAX_S = 5.0
FLUSH_S = 2.0  # for what is left when the worker ends
PATH = "/modeldata/log"
RESERVED = ("request", "response")
CONFIG = "PORTICO_DATA_COLLECTOR"  # JSON: sampling rates by collection

_log = logging.getLogger(LOGGER + ".collector")


def prepare() -> None:
    """Write the file that says which collections are enabled, where the package looks for it."""
    if "AZUREML_MDC_CONFIG_PATH" in os.environ:
        return
    # The collector draws the sample, of all parts of a request alike: the package would draw one for each.
    collections = {name: {"enabled": True, "sampleRatePercentage": 100} for name in json.loads(os.environ[CONFIG])}
    handle, path = tempfile.mkstemp(prefix="data-collector-", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"runMode": "cloud", "collections": collections}, file)
    os.environ["AZUREML_MDC_CONFIG_PATH"] = path


def sampled(request_id: str, rate: float) -> bool:
    """Whether what belongs to a request is kept: the same answer as the collector's."""
    if rate >= 1:
        return True
    number = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
    return (number >> 11) / (1 << 53) < rate


class CorrelationContext:
    """What joins the events of one scoring."""

    def get_id(self) -> str:
        """The id that the events share."""
        return ""

    def get_timestamp(self) -> int:
        """When it began, in seconds."""
        return int(time.time())

    def get_headers(self) -> Mapping[str, Any]:
        """Attributes that the events get."""
        return {}

    def __str__(self) -> str:
        return self.get_id()

    __repr__ = __str__


class BasicCorrelationContext(CorrelationContext):
    """A context with an id of its own, or a given one."""

    def __init__(self, id: str | None = None, timestamp: int | None = None, headers: Any = None) -> None:
        self.id = id or str(uuid.uuid4())
        self.timestamp = timestamp or int(time.time())
        self.headers = headers or {}

    def get_id(self) -> str:
        """See CorrelationContext."""
        return self.id

    def get_timestamp(self) -> int:
        """See CorrelationContext."""
        return self.timestamp

    def get_headers(self) -> Mapping[str, Any]:
        """See CorrelationContext."""
        return self.headers


class WrapperContext(CorrelationContext):
    """A context that says what became of the event, where AZUREML_MDC_DEBUG is set."""

    def __init__(self, context: CorrelationContext, success: bool, message: str) -> None:
        self._context, self._success, self._message = context, success, message

    def get_id(self) -> str:
        """See CorrelationContext."""
        return self._context.get_id()

    def get_timestamp(self) -> int:
        """See CorrelationContext."""
        return self._context.get_timestamp()

    def get_headers(self) -> Mapping[str, Any]:
        """See CorrelationContext."""
        return self._context.get_headers()

    def is_success(self) -> bool:
        """Whether the event was taken up."""
        return self._success

    def get_message(self) -> str:
        """Why it was, or was not."""
        return self._message


def get_context() -> CorrelationContext:
    """A new context."""
    return BasicCorrelationContext()


def get_context_wrapper(context: CorrelationContext, success: bool, message: str) -> CorrelationContext:
    """The context, with what became of its event."""
    return WrapperContext(context, success, message)


class _Settings:
    """Which collections are enabled, as the package reads it: a file, or variables that say so of all collections."""

    def __init__(self) -> None:
        path = os.environ.get("AZUREML_MDC_CONFIG_PATH", "")
        self._enabled: dict[str, float] | None = None  # shares by collection; None: all are
        self._share = 100.0
        if path:
            with open(path, encoding="utf-8") as file:
                document = json.load(file)
            self.local = document.get("runMode") == "local"
            self._enabled = {
                name.lower(): float(c.get("sampleRatePercentage", 100))
                for name, c in document.get("collections", {}).items()
                if c.get("enabled")
            }
            self.enabled = any(name not in RESERVED for name in self._enabled)
            return
        self.enabled = os.environ.get("AZUREML_MDC_ENABLED", "").lower() == "true"
        self.local = os.environ.get("AZUREML_MDC_LOCAL_CAPTURE", "").lower() == "true"
        self._share = float(os.environ.get("AZUREML_MDC_SAMPLE_RATE") or 100)

    def share(self, collection: str) -> float | None:
        """The percentage that is drawn of a collection; None: it is not enabled."""
        if self._enabled is None:
            return self._share
        return self._enabled.get(collection)


def _raise(error: Exception) -> None:
    raise error


class Collector:
    """Collects data frames under the name of a collection."""

    def __init__(self, *, name: str, on_error: Callable[[Exception], Any] | None = None) -> None:
        self.name = name
        self._on_error = on_error or _raise
        self._rates: dict[str, float] = json.loads(os.environ.get(CONFIG) or "{}")
        self._settings = _Settings()
        self._usable()

    def _usable(self) -> str:
        """Empty, or why nothing can be collected, which on_error has been told."""
        text = ""
        if not self.name:
            text = "collection name is not provided"
        elif not self._settings.enabled:
            text = "custom logging is not enabled, drop the data"
        elif self._settings.share(self.name) is None:
            text = f"collection {self.name} is not enabled, drop the data"
        if text:
            self._on_error(Exception(text))
        return text

    def collect(self, data: Any, correlation_context: CorrelationContext | None = None) -> CorrelationContext:
        """Take up a data frame. The context that is given back joins it with another, of another collection."""
        context = get_context() if correlation_context is None else correlation_context
        main = threading.current_thread() is threading.main_thread()
        success, text = self.keep(data, context, log.request_id() if main else "")
        if os.environ.get("AZUREML_MDC_DEBUG", "").lower() == "true":
            return get_context_wrapper(context, success, text)
        return context

    def keep(self, data: Any, context: CorrelationContext, request_id: str) -> tuple[bool, str]:
        """Take up a data frame of a request; whether that was done, and why or why not."""
        text = self._usable()
        if text:
            return False, text
        share = self._settings.share(self.name) or 0.0
        if not sampled(request_id or context.get_id(), self._rates.get(self.name, 1.0)) or (
            share < 100 and share <= random.random() * 100
        ):
            return False, "dropped_sampling"
        pandas = sys.modules.get("pandas")
        if pandas is None or not isinstance(data, pandas.DataFrame):
            error = TypeError(f"data type ({type(data).__name__}) not supported, supported types: pandas.DataFrame")
            self._on_error(error)
            return False, str(error)
        body = data.to_json(orient="records").encode()
        if self._settings.local:
            _log.info("%s | %s | %s", self.name, context.get_id(), body.decode())
            return True, "accepted"
        if _sender().put(body, _fields(self.name, context, request_id)):
            return True, "accepted"
        text = "Too many requests lead to message queue is full, please reduce the number of requests."
        self._on_error(Exception(text))
        return False, text


def _fields(name: str, context: CorrelationContext, request_id: str) -> dict[str, str]:
    fields = {f"ce-{key}": str(value) for key, value in context.get_headers().items()}
    fields.update({
        "Content-Type": "application/json",
        "trace-id": str(uuid.uuid4()),
        "ce-time": str(context.get_timestamp()),
        "ce-type": f"azureml.inference.{name}",
        "ce-collect-data-type": "pandas.core.frame.DataFrame",
        "ce-agent": f"portico/{VERSION}",
        "ce-model-version": "default",
        "ce-x-request-id": context.get_id(),
    })  # fmt: skip
    if request_id:
        fields["x-request-id"] = request_id
    return fields


class _Sender:
    """The queue and the thread that empties it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[bytes, dict[str, str]]] = queue.Queue(QUEUE_MAX)
        self._bytes = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: http.client.HTTPConnection | None = None
        host = os.environ.get("AZUREML_MDC_HOST") or "127.0.0.1"
        credential, _, self._host = host.rpartition("@")
        self._host = self._host.strip("[]")
        self._port = int(os.environ.get("AZUREML_MDC_PORT") or 50011)
        self._fields = {}
        if credential:
            self._fields["Authorization"] = "Basic " + base64.b64encode(credential.encode()).decode("ascii")
        threading.Thread(target=self._run, name="data-collector", daemon=True).start()

    def usable(self) -> bool:
        """Whether the thread is one of this process: it stays behind in a fork."""
        return self._pid == os.getpid()

    def put(self, body: bytes, fields: dict[str, str]) -> bool:
        """Queue an event; False when there is no room."""
        with self._lock:
            if self._bytes + len(body) > QUEUE_BYTES_MAX:
                return False
            try:
                self._queue.put_nowait((body, fields))
            except queue.Full:
                return False
            self._bytes += len(body)
            return True

    def flush(self, seconds: float) -> None:
        """Wait until all is sent, but not longer than that."""
        until = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)
        if self._queue.unfinished_tasks:
            _log.warning("%d collected events were not sent", self._queue.unfinished_tasks)

    def _run(self) -> None:
        while True:
            body, fields = self._queue.get()
            try:
                self._send(body, fields)
            except Exception as error:  # this thread must live
                _log.error("a collected event was lost: %s: %s", type(error).__name__, error)
            finally:
                with self._lock:
                    self._bytes -= len(body)
                self._queue.task_done()

    def _send(self, body: bytes, fields: dict[str, str]) -> None:
        until, pause = time.monotonic() + TRY_S, PAUSE_S
        while True:
            try:
                status, text = self._post(body, fields)
                if status < 300:
                    return
                if status != 503:
                    _log.error("the data collector refused an event: %d %s", status, text)
                    return
            except (OSError, http.client.HTTPException) as error:
                text = f"{type(error).__name__}: {error}"
                self._close()
            if time.monotonic() > until:
                _log.error("a collected event was lost, the data collector is away: %s", text)
                return
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_S)

    def _post(self, body: bytes, fields: dict[str, str]) -> tuple[int, str]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_S)
        self._connection.request("POST", PATH, body, {**fields, **self._fields})
        answer = self._connection.getresponse()
        text = answer.read(1000).decode("utf-8", "replace").strip()
        if answer.will_close:
            self._close()
        return answer.status, text

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None


_running: _Sender | None = None


def _sender() -> _Sender:
    global _running
    if _running is None or not _running.usable():
        _running = _Sender()
    return _running


def flush() -> None:
    """Send what waits, before the worker ends."""
    if _running is not None and _running.usable():
        _running.flush(FLUSH_S)
