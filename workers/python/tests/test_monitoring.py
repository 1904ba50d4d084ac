"""azureml.ai.monitoring: what a script collects reaches the collector, by the package itself and by what stands in."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import Worker

Start = Callable[..., Worker]
PACKAGE = "azureml-ai-monitoring==1.0.0"
HERE = Path(__file__).resolve()

SCRIPT = """
import json
import pandas as pd
from azureml.ai.monitoring import Collector
from azureml.ai.monitoring.context import BasicCorrelationContext

errors = []

def init():
    global inputs, outputs, off
    inputs = Collector(name="model_inputs")
    outputs = Collector(name="model_outputs")
    off = Collector(name="off", on_error=lambda error: errors.append(str(error)))

def run(raw_data):
    frame = pd.DataFrame(json.loads(raw_data))
    context = inputs.collect(frame)
    outputs.collect(frame * 2, context)
    off.collect(frame)
    named = outputs.collect(frame, BasicCorrelationContext(id="given", headers={"tenant": "a"}))
    try:
        inputs.collect([1])
        return "taken"
    except TypeError as error:
        return [context.get_id(), str(named), str(error), errors]
"""


class Sink:
    """The collector's place: it keeps what is sent to it."""

    def __init__(self) -> None:
        self.events: list[tuple[dict[str, str], str]] = []
        self.statuses: list[int] = []  # of the next answers; 200 after them
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                status = sink.statuses.pop(0) if sink.statuses else 200
                if status == 200:
                    sink.events.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def env(self) -> dict[str, str]:
        rates = {"model_inputs": 1, "model_outputs": 1}
        return {
            "PORTICO_DATA_COLLECTOR": json.dumps(rates),
            "AZUREML_MDC_HOST": "u-1.i-1:secret@127.0.0.1",
            "AZUREML_MDC_PORT": str(self.server.server_port),
        }


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.close()


@pytest.fixture(scope="session")
def package() -> str:
    """A folder that holds the real package, installed once below .build."""
    root = HERE.parents[3] / ".build" / "azureml-ai-monitoring"
    if not (root / ".done").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(root), PACKAGE]
        subprocess.run(pip, check=True)
        (root / ".done").touch()
    return str(root)


@pytest.mark.parametrize("real", [False, True])
def test_collect(start: Start, sink: Sink, request: pytest.FixtureRequest, real: bool) -> None:
    env = sink.env
    if real:
        env["PYTHONPATH"] = request.getfixturevalue("package")
    worker = start(SCRIPT, **env).ready()
    answer = worker.ask(body='{"a": [1, 2]}', x_request_id="r-1")
    assert answer.status == 200, answer.text + worker.log
    correlation, named, error, errors = json.loads(answer.text)
    assert "list" in error and "pandas.DataFrame" in error
    assert errors and all(text == "collection off is not enabled, drop the data" for text in errors)
    worker.wait("collected", lambda: len(sink.events) == 3)
    kinds = [(fields["ce-type"], fields["ce-x-request-id"], body) for fields, body in sink.events]
    assert kinds == [
        ("azureml.inference.model_inputs", correlation, '[{"a":1},{"a":2}]'),
        ("azureml.inference.model_outputs", correlation, '[{"a":2},{"a":4}]'),
        ("azureml.inference.model_outputs", "given", '[{"a":1},{"a":2}]'),
    ]
    assert named == "given"
    fields = sink.events[2][0]
    assert fields["ce-tenant"] == "a"
    assert fields["authorization"] == "Basic " + base64.b64encode(b"u-1.i-1:secret").decode()
    assert fields["ce-collect-data-type"] == "pandas.core.frame.DataFrame" or real
    assert fields["ce-agent"].startswith("azureml-ai-monitoring/" if real else "portico/")
    assert int(fields["ce-time"]) > 1_700_000_000
    assert real or fields["x-request-id"] == "r-1"


def test_collector_comes_back(start: Start, sink: Sink) -> None:
    """Events wait while the collector is away, and what waits at the end is sent before the worker leaves."""
    sink.statuses = [503, 503]
    worker = start(SCRIPT, **sink.env).ready()
    worker.ask(body='{"a": [1]}')
    worker.process.terminate()
    assert worker.ended() == 0
    assert len(sink.events) == 3, worker.log


def test_refusals_are_logged(start: Start, sink: Sink) -> None:
    sink.statuses = [404]
    worker = start(SCRIPT, **sink.env).ready()
    worker.ask(body='{"a": [1]}')
    worker.wait("logged", lambda: "the data collector refused an event: 404" in worker.log and len(sink.events) == 2)
    assert "secret" not in worker.log


def test_queue_is_bounded(start: Start, sink: Sink) -> None:
    """Without a collector the queue fills up, and collect() says so."""
    script = """
import pandas as pd
from azureml.ai.monitoring import Collector
lost = []
def init():
    global inputs
    inputs = Collector(name="model_inputs", on_error=lost.append)
def run(raw_data):
    frame = pd.DataFrame({"a": [1]})
    for _ in range(1600):
        inputs.collect(frame)
    return [len(lost), str(lost[-1])]
"""
    env = {**sink.env, "AZUREML_MDC_PORT": "1"}  # nobody listens there
    count, text = json.loads(start(script, **env).ready().ask(body="x").text)
    assert 99 <= count <= 100 and "queue is full" in text


def test_samples_of_the_server(start: Start, sink: Sink) -> None:
    """The same choice as online.Collection.Samples makes, which has this list in its test."""
    script = SCRIPT.replace("    named = ", "    named = context or ")
    env = {**sink.env, "PORTICO_DATA_COLLECTOR": '{"model_inputs": 0.4, "model_outputs": 0.4}'}
    worker = start(script, **env).ready()
    for i in range(20):
        worker.ask(body='{"a": [1]}', x_request_id=f"request-{i}")
    worker.process.terminate()
    worker.ended()
    for kind in ("model_inputs", "model_outputs"):
        kept = [fields["x-request-id"] for fields, _ in sink.events if fields["ce-type"].endswith(kind)]
        assert " ".join(kept) == "request-1 request-4 request-5 request-10 request-11 request-19"


def test_not_enabled(start: Start) -> None:
    """Where nothing is collected the package raises, unless on_error says otherwise; a script can be run at a desk."""
    script = "from azureml.ai.monitoring import Collector\ndef init():\n    %s\ndef run(raw_data):\n    return 1\n"
    worker = start(script % "Collector(name='model_inputs')")
    worker.wait("ended", lambda: worker.process.poll() is not None)
    assert "custom logging is not enabled" in worker.failure
    start(script % "Collector(name='model_inputs', on_error=lambda error: None)").ready()
    env = {"AZUREML_MDC_ENABLED": "true", "AZUREML_MDC_LOCAL_CAPTURE": "true"}
    text = "import pandas as pd; Collector(name='x').collect(pd.DataFrame({'a': [1]}))"
    local = start(script % text, **env).ready()
    assert '[{"a":1}]' in local.log


def test_forks_collect(start: Start, sink: Sink) -> None:
    script = """
import os
import pandas as pd
from azureml.ai.monitoring import Collector
def init():
    global inputs
    inputs = Collector(name="model_inputs")
def run(raw_data):
    inputs.collect(pd.DataFrame({"a": [1]}))
    child = os.fork()
    if child == 0:
        inputs.collect(pd.DataFrame({"a": [2]}))
        from portico_worker import monitoring
        monitoring.flush()
        os._exit(0)
    os.waitpid(child, 0)
    return 1
"""
    worker = start(script, **sink.env).ready()
    assert worker.ask(body="x").status == 200
    worker.wait("collected", lambda: sorted(body for _, body in sink.events) == ['[{"a":1}]', '[{"a":2}]'])
