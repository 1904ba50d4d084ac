"""Real worker processes over real sockets."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

RUNTIME = Path(__file__).resolve().parent.parent / "portico_worker"
WAIT_S = 20.0  # for anything that must happen, on a slow machine


class UnixConnection(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("worker", timeout=WAIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()


class Worker:
    """One worker process with its socket and its page."""

    def __init__(self, directory: Path, script: str | None, **env: str) -> None:
        self.code = directory / "code"
        self.code.mkdir()
        if script is not None:
            (self.code / "score.py").write_text(script)
        # Socket paths are short: the usual temporary directory of a test may not be.
        self._short = tempfile.TemporaryDirectory(prefix="pw")
        self.path = os.path.join(self._short.name, "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(64)
        page_path = directory / "page"
        page_path.write_bytes(bytes(4096))
        self.page_file = os.open(page_path, os.O_RDWR)
        self.log_path = directory / "log"
        self._log = open(self.log_path, "wb")  # noqa: SIM115 - closed in close()
        environment = {"AML_APP_ROOT": str(self.code), "AZUREML_ENTRY_SCRIPT": "score.py", "PATH": os.environ["PATH"]}
        environment.update(env)

        def descriptors() -> None:
            a, b = os.dup(listener.fileno()), os.dup(self.page_file)
            os.dup2(a, 3)
            os.dup2(b, 4)
            os.closerange(5, 1024)

        self.process = subprocess.Popen(
            [sys.executable, str(RUNTIME)],
            preexec_fn=descriptors,
            close_fds=False,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        listener.close()
        self.number = 0

    def word(self, index: int) -> int:
        return int.from_bytes(os.pread(self.page_file, 8, 8 * index), "little")

    def set_word(self, index: int, value: int) -> None:
        os.pwrite(self.page_file, value.to_bytes(8, "little"), 8 * index)

    @property
    def state(self) -> int:
        return self.word(0) >> 32

    @property
    def failure(self) -> str:
        data = os.pread(self.page_file, 2048, 256)
        return data[2 : 2 + int.from_bytes(data[:2], "little")].decode()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait(self, what: str, ok: Callable[[], Any]) -> None:
        end = time.monotonic() + WAIT_S
        while not ok():
            if time.monotonic() > end:
                raise AssertionError(f"never {what}; log:\n{self.log}")
            time.sleep(0.002)

    def ready(self) -> Worker:
        self.wait("ready", lambda: self.state == 2 or self.process.poll() is not None)
        assert self.state == 2, f"{self.failure}\n{self.log}"
        return self

    def ended(self) -> int:
        return self.process.wait(WAIT_S)

    def connect(self) -> UnixConnection:
        return UnixConnection(self.path)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def ask(self, method: str = "POST", path: str = "/score", body: Any = None, **headers: str) -> Answer:
        connection = self.connect()
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            fields.setdefault("x-portico-number", str(self.next_number()))
            connection.request(method, path, body, fields)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def background(self, body: str, number: int) -> Callable[[], Answer]:
        """Send a request from a thread; the result gives its answer."""
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(self.ask(body=body, x_portico_number=str(number))))
        thread.start()

        def result() -> Answer:
            thread.join(WAIT_S)
            assert answers, f"no answer; log:\n{self.log}"
            return answers[0]

        return result

    def cancel(self, number: int) -> None:
        self.set_word(4, number)
        self.process.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()
        os.close(self.page_file)
        self._short.cleanup()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers that end with the test."""
    workers: list[Worker] = []

    def make(script: str | None, **env: str) -> Worker:
        directory = tmp_path / str(len(workers))
        directory.mkdir()
        workers.append(Worker(directory, script, **env))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()
