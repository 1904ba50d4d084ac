"""The process: cancellation, deadlines, hang-ups, signals, malformed requests, log lines."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from typing import Callable

import pytest
from conftest import WAIT_S, Worker

Start = Callable[..., Worker]

RUNNING, NEWEST, FINISHED, BUSY = 1, 2, 5, 8
WITHDRAWN = 2048 // 8

DO = """
import os, signal, sys, threading, time
def init(): pass
def run(raw_data):
    word, _, arg = raw_data.partition(" ")
    if word == "sleep": time.sleep(float(arg))
    elif word == "loop":
        while True: pass
    elif word == "print":
        while True: print("again")
    elif word == "swallow":
        for _ in range(int(arg)):
            try: time.sleep(60)
            except BaseException: pass
    elif word == "finally":
        try: time.sleep(60)
        finally: print("cleaned up")
    elif word == "exit": sys.exit(3)
    elif word == "interrupt": raise KeyboardInterrupt
    elif word == "timeout": raise TimeoutError("of a database")
    elif word == "fork":
        pid = os.fork()
        if pid == 0: return "child"
        os.waitpid(pid, 0)
    elif word == "thread":
        threading.Thread(target=time.sleep, args=(600,)).start()
    elif word == "lines":
        print("one", 1)
        print("two\\nthree", end="")
        print("to stderr", file=sys.stderr)
        os.write(1, b"raw\\n")
    return raw_data
"""


@pytest.mark.parametrize("body", ["sleep 60", "loop", "print", "finally"])
def test_cancel_stops_python(start: Start, body: str) -> None:
    worker = start(DO).ready()
    answer = worker.background(body, 7)
    worker.wait("running", lambda: worker.word(RUNNING) == 7)
    end = time.monotonic() + WAIT_S
    while worker.word(RUNNING) == 7 and time.monotonic() < end:
        worker.cancel(7)
        time.sleep(0.01)
    got = answer()
    assert (got.status, got.headers["x-ms-run-function-failed"]) == (503, "True")
    assert worker.ask(body="next", x_portico_number="8").text == '"next"'
    worker.wait("both counted", lambda: worker.word(FINISHED) == 2)
    assert worker.process.poll() is None
    assert ("cleaned up" in worker.log) == (body == "finally")


def test_cancel_of_another_request_does_nothing(start: Start) -> None:
    worker = start(DO).ready()
    answer = worker.background("sleep 0.5", 7)
    worker.wait("running", lambda: worker.word(RUNNING) == 7)
    for number in (6, 8, 0, 1 << 63):
        worker.cancel(number)
        time.sleep(0.02)
    assert answer().status == 200


def test_swallowed_cancel_can_be_repeated(start: Start) -> None:
    worker = start(DO).ready()
    answer = worker.background("swallow 3", 1)
    worker.wait("running", lambda: worker.word(RUNNING) == 1)
    end = time.monotonic() + WAIT_S
    while worker.word(RUNNING) == 1 and time.monotonic() < end:
        worker.cancel(1)
        time.sleep(0.02)
    assert answer().status == 200


def test_cancel_while_idle_or_in_init(start: Start) -> None:
    worker = start("import time\ndef init(): time.sleep(0.3)\ndef run(d): return d\n")
    worker.wait("in init", lambda: worker.state == 1)
    worker.process.send_signal(signal.SIGUSR1)
    worker.ready()
    worker.cancel(0)
    worker.cancel(1)
    assert worker.ask(body="x", x_portico_number="2").status == 200


def test_scoring_timeout(start: Start) -> None:
    worker = start(DO, SCORING_TIMEOUT_MS="100").ready()
    for body in ("sleep 60", "loop"):
        answer = worker.ask(body=body)
        assert (answer.status, answer.text) == (500, '{"message": "Scoring timeout after 100 ms"}')
        assert answer.headers["x-ms-run-function-failed"] == "True"
    assert worker.ask(body="quick").status == 200


def test_exceptions_that_end_programs(start: Start) -> None:
    worker = start(DO).ready()
    for body in ("exit", "interrupt", "timeout"):
        assert worker.ask(body=body).status == 500
    assert worker.ask(body="x").status == 200 and worker.process.poll() is None
    assert "SystemExit" in worker.log and "KeyboardInterrupt" in worker.log


def test_withdrawn_and_late_requests_do_not_run(start: Start) -> None:
    worker = start(DO).ready()
    worker.set_word(WITHDRAWN + 5, 5)
    answer = worker.ask(body="x", x_portico_number="5")
    assert (answer.status, answer.headers["x-portico-not-started"]) == (503, "withdrawn")
    assert worker.ask(body="x", x_portico_number=str(5 + 256)).status == 200  # same slot, another request
    late = worker.ask(body="x", x_portico_number="6", x_portico_deadline_ms="0")
    assert late.headers["x-portico-not-started"] == "deadline"
    worker.wait("one counted", lambda: worker.word(FINISHED) == 1)


def test_hang_up_drops_the_waiting_request(start: Start) -> None:
    worker = start(DO).ready()
    first = worker.background("sleep 0.3", 1)
    worker.wait("running", lambda: worker.word(RUNNING) == 1)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(worker.path)
        gone.sendall(b"POST /score HTTP/1.1\r\nx-portico-number: 2\r\ncontent-length: 1\r\n\r\nx")
    assert first().status == 200
    assert worker.ask(body="x", x_portico_number="3").status == 200
    worker.wait("two counted", lambda: worker.word(FINISHED) == 2)
    assert worker.word(NEWEST) == 3


def test_page_counts(start: Start) -> None:
    worker = start(DO).ready()
    worker.ask(body="sleep 0.05", x_portico_number="41")
    worker.wait("counted", lambda: worker.word(FINISHED) == 1)
    assert worker.word(NEWEST) == 41
    assert worker.word(BUSY) >= 50_000_000 and worker.word(6) > 0
    connection = worker.connect()
    connection.request("POST", "/score", "x")  # a person's curl has no number
    assert connection.getresponse().status == 200
    connection.close()
    assert worker.word(NEWEST) == 41


MALFORMED = [
    (b"GARBAGE\r\n\r\n", 400),
    (b"POST /score HTTP/1.0\r\n\r\n", 400),
    (b"POST score HTTP/1.1\r\n\r\n", 400),
    (b"POST /sc ore HTTP/1.1\r\n\r\n", 400),
    (b"post /score HTTP/1.1\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\nbad header: x\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\n folded: x\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\na: x\r\n continued\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\na: x\n\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\na: x\ry\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\na: \x00\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\nno colon\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx", 400),
    (b"POST /score HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\ncontent-length: 1e3\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
    (b"POST /score HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    (b"POST /score HTTP/1.1\r\nx-portico-number: x\r\ncontent-length: 0\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\nx-portico-number: 0\r\ncontent-length: 0\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 400),
    (b"POST /score HTTP/1.1\r\na: " + b"x" * 70000 + b"\r\n\r\n", 431),
    (b"x" * 70000, 431),
]


def test_malformed_requests(start: Start) -> None:
    worker = start(DO).ready()
    for data, status in MALFORMED:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(worker.path)
            sock.sendall(data)
            assert sock.recv(65536).startswith(b"HTTP/1.1 %d " % status), data[:80]
    assert worker.ask(body="x").status == 200


def test_slow_request_does_not_hold_others(start: Start) -> None:
    worker = start(DO).ready()
    request = b"POST /score HTTP/1.1\r\nx-portico-number: 1\r\ncontent-length: 200000\r\n\r\n" + b"y" * 200000
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(WAIT_S)
        slow.connect(worker.path)
        for piece in (request[:10], request[10:60], request[60:100], request[100:150000]):
            slow.sendall(piece)
            assert worker.ask(body="x", x_portico_number=str(worker.next_number() + 1)).status == 200
        slow.sendall(request[150000:])
        data = b""
        while b"y" * 200000 + b'"' not in data:
            more = slow.recv(65536)
            assert more, data[:200]
            data += more


def test_reader_that_goes_away(start: Start) -> None:
    worker = start("def init(): pass\ndef run(d): return 'x' * 5_000_000\n").ready()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(worker.path)
        sock.sendall(b"POST /score HTTP/1.1\r\nx-portico-number: 1\r\ncontent-length: 0\r\n\r\n")
        sock.recv(1)
    assert len(worker.ask(x_portico_number="2").body) == 5_000_002


def test_many_connections(start: Start) -> None:
    worker = start(DO).ready()
    held = []
    for _ in range(100):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(worker.path)
        held.append(sock)
    for sock in held:
        sock.close()
    assert worker.ask(body="x").status == 200


def test_sigterm(start: Start) -> None:
    worker = start(DO).ready()
    worker.process.terminate()
    assert worker.ended() == 0

    worker = start(DO).ready()
    answer = worker.background("sleep 0.3", 1)
    worker.wait("running", lambda: worker.word(RUNNING) == 1)
    worker.process.terminate()
    assert answer().status == 200 and worker.ended() == 0

    worker = start(DO).ready()
    assert worker.ask(body="thread").status == 200
    worker.process.terminate()
    assert worker.ended() == 0


def test_forked_child_leaves_the_worker_alone(start: Start) -> None:
    worker = start(DO).ready()
    answer = worker.ask(body="fork", x_portico_number="1")
    assert (answer.status, answer.text) == (200, '"fork"')
    worker.wait("one counted", lambda: worker.word(FINISHED) == 1)
    assert worker.ask(body="x", x_portico_number="2").status == 200


def test_descriptors_are_not_inherited(start: Start) -> None:
    script = (
        "import subprocess, sys\ndef init(): pass\n"
        "def run(d): return subprocess.run([sys.executable, '-c', 'import os; print(os.listdir(\"/proc/self/fd\"))'],"
        " capture_output=True, text=True, close_fds=False).stdout\n"
    )
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system has no /proc")
    worker = start(script).ready()
    numbers = [int(n) for n in re.findall(r"\d+", worker.ask(body="").text)]
    assert max(numbers) <= 3  # 0 to 2, and the one of the listing itself


def test_log_lines(start: Start) -> None:
    worker = start(
        "import logging\n" + DO.replace("def init(): pass", "def init(): logging.warning('from init')")
    ).ready()
    worker.ask(body="lines", x_request_id="req-1")
    worker.ask(body="x", x_request_id="req-2")
    pid = worker.process.pid
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    for pattern in (
        rf"{stamp} W \[{pid}\] root - from init",
        rf"{stamp} I \[{pid} req-1\] azmlinfsrv\.print - one 1",
        rf"{stamp} I \[{pid} req-1\] azmlinfsrv\.print - two",
        rf"{stamp} I \[{pid} req-1\] azmlinfsrv\.print - three",
        rf"{stamp} W \[{pid} req-1\] azmlinfsrv\.stderr - to stderr",
        r"raw",
    ):
        assert re.search(rf"^{pattern}$", worker.log, re.MULTILINE), (pattern, worker.log)


def test_log_level(start: Start) -> None:
    script = "import logging\ndef init(): logging.info('i'); logging.error('e')\ndef run(d): return d\n"
    log = start(script, AZUREML_LOG_LEVEL="ERROR").ready().log
    assert " - e\n" in log and " - i\n" not in log


def test_secrets_are_not_printed(start: Start) -> None:
    worker = start("def init(): raise ValueError('x')\ndef run(d): pass\n", TOKEN="clear-secret-value")
    assert worker.ended() == 3 and "clear-secret-value" not in worker.log + worker.failure


def test_socket_closed_by_user_code(start: Start) -> None:
    worker = start("import os\ndef init(): pass\ndef run(d): os.closerange(3, 64); return 1\n").ready()
    with pytest.raises(OSError):
        worker.ask(body="x")
    assert worker.ended() != 0


def test_listener_shut_down(start: Start) -> None:
    """A script that shuts the worker's own socket down ends the worker, which says why."""
    script = """
import os, socket
def init(): pass
def run(raw_data):
    socket.socket(fileno=os.dup(int(raw_data))).shutdown(socket.SHUT_RDWR)
    return 1
"""
    worker = start(script).ready()
    assert worker.ask(body="3").status == 200
    assert worker.ended() == 1
    assert "user code has shut down or closed a socket of the worker" in worker.log


CHILDREN = """
import multiprocessing, sys
from azureml_inference_server_http.api.aml_response import AMLResponse
LOADED = multiprocessing.current_process().name
class Row:
    def __init__(self, n): self.n = n
    def twice(self): return Row(2 * self.n)
def init(): pass
def run(raw_data):
    with multiprocessing.get_context(raw_data).Pool(1) as pool:
        return [row.n for row in pool.map(Row.twice, [Row(1), Row(2)])]
"""


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_processes_of_the_script_know_its_functions(start: Start, way: str) -> None:
    assert start(CHILDREN).ready().ask(body=way).text == "[2, 4]"


def test_pickled_functions_take_along_what_init_has_loaded(start: Start) -> None:
    # cloudpickle's public names, as far as they matter here: it is no dependency.
    script = (
        "import sys, types\nnamed = []\nlibrary = types.ModuleType('joblib.externals.cloudpickle.cloudpickle')\n"
        "library.register_pickle_by_value = lambda module: named.append(module.__name__)\n"
        "def init(): sys.modules[library.__name__] = library\ndef run(d): return named\n"
    )
    assert start(script).ready().ask(body="").text == '["entry_module"]'
