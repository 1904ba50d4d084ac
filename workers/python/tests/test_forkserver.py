"""The fork server, spoken to as the supervisor does. Without isolation: that needs root and is tested with the host."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import RUNTIME, WAIT_S, Answer, UnixConnection
from portico_worker import forkserver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made the children of another on Linux only")

EVAL = "import os, random, sys\ndef init():\n    pass\ndef run(raw):\n    return repr(eval(raw))\n"


class Fork:
    """A worker that was forked."""

    def __init__(self, pid: int, path: str) -> None:
        self.pid = pid
        self.path = path

    def value(self, code: str) -> str:
        connection = UnixConnection(self.path)
        try:
            connection.request("POST", "/score", code, {"x-portico-number": "1"})
            answer = Answer(connection.getresponse())
        finally:
            connection.close()
        assert answer.status == 200, answer.text
        value = json.loads(answer.text)
        assert isinstance(value, str)
        return value


class Server:
    """One fork server. Its forks are this process's children."""

    def __init__(self, directory: Path, *names: str, **env: str) -> None:
        self.directory = directory
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(WAIT_S)
        self._short = tempfile.TemporaryDirectory(prefix="pf")
        self.forks: list[Fork] = []
        self.process = subprocess.Popen(
            [sys.executable, str(RUNTIME), "fork-server", *names],
            preexec_fn=lambda: os.dup2(theirs.fileno(), 3),
            close_fds=False,
            env={"PATH": os.environ["PATH"], "PORTICO_PROCESS": "a" * 32, "OMP_NUM_THREADS": "1", **env},
        )
        theirs.close()
        self.report: dict[str, Any] = json.loads(self.control.recv(1 << 16))

    def fork(self, script: str = EVAL, **env: str) -> Fork:
        number = len(self.forks)
        code = self.directory / f"code{number}"
        code.mkdir()
        (code / "score.py").write_text(script)
        path = os.path.join(self._short.name, str(number))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(8)
        page = os.memfd_create("page")
        os.ftruncate(page, 4096)
        talk, theirs = socket.socketpair()
        talk.settimeout(WAIT_S)
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        socket.send_fds(self.control, [b'{"isolate": false}'], [theirs.fileno()])
        theirs.close()
        born, ancillary, _, _ = talk.recvmsg(4096, socket.CMSG_SPACE(12))
        assert json.loads(born) == {}
        pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        talk.sendall(b'{"uid": 0}\n')
        assert talk.recv(4096) == b"{}\n"
        environment = {"AML_APP_ROOT": str(code), "AZUREML_ENTRY_SCRIPT": "score.py", "PORTICO_PROCESS": "b" * 32}
        plan = {"argv": ["python", "worker"], "env": {**environment, **env}, "dir": str(code), "files": [0, 1, 2, 3, 4]}
        with open(os.devnull) as null:
            socket.send_fds(talk, [json.dumps(plan).encode() + b"\n"], [null.fileno(), 1, 2, listener.fileno(), page])
        listener.close()
        os.close(page)
        assert talk.recv(4096) == b"{}\n"
        talk.close()
        self.forks.append(Fork(pid, path))
        return self.forks[-1]

    def close(self) -> None:
        for fork in self.forks:
            try:
                os.kill(fork.pid, signal.SIGKILL)
                os.waitpid(fork.pid, 0)
            except (ChildProcessError, ProcessLookupError):
                continue
        self.control.close()
        self.process.wait(WAIT_S)
        self._short.cleanup()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts fork servers that end with the test."""
    servers: list[Server] = []

    def make(*names: str, **env: str) -> Server:
        servers.append(Server(tmp_path, *names, **env))
        return servers[-1]

    yield make
    for one in servers:
        one.close()


def module(directory: Path, name: str, text: str) -> str:
    (directory / f"{name}.py").write_text(text)
    return str(directory)


def test_forks_have_what_was_imported_and_their_own_environment(server: Callable[..., Server]) -> None:
    one = server("decimal", "not_installed", "decimal.Decimal")
    assert "decimal" in one.report["modules"]
    assert one.report["failed"] == {}
    first, second = one.fork(SECRET="1"), one.fork(SECRET="2")
    assert first.value("'decimal' in sys.modules") == "True"
    assert [f.value("os.environ['SECRET']") for f in (first, second)] == ["'1'", "'2'"]
    assert first.value("sorted(os.environ)").count("OMP_NUM_THREADS") == 0
    assert first.value("os.getppid()") == str(os.getpid())
    assert first.value("os.getsid(0) == os.getpid()") == "True"
    assert first.value("len(os.listdir('/proc/self/task'))") == "1"
    assert first.value("sys.argv") == "['worker']"
    # No descriptor of the fork server or of the setting up is left: what is open is the worker's own.
    links = first.value("sorted(os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2))")
    assert "/dev/null" in links


def test_forks_draw_different_numbers(server: Callable[..., Server]) -> None:
    one = server("numpy.random")
    first, second = one.fork(), one.fork()
    draws = ["random.random()", "__import__('uuid').uuid4()", "__import__('ssl').RAND_bytes(8)"]
    if "numpy" in one.report["modules"]:
        draws += ["__import__('numpy').random.random()", "__import__('numpy').random.default_rng().random()"]
    for draw in draws:
        assert first.value(draw) != second.value(draw), draw


def test_threads_are_detected(server: Callable[..., Server], tmp_path: Path) -> None:
    text = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    one = server("busy", PYTHONPATH=module(tmp_path, "busy", text))
    assert one.report == {"unfit": "importing busy leaves 1 more threads behind"}
    assert one.process.wait(WAIT_S) == 0


def test_threads_that_come_later_are_detected(server: Callable[..., Server], tmp_path: Path) -> None:
    text = "import signal, threading, time\nsignal.signal(signal.SIGUSR1, lambda *_: threading.Thread(" + (
        "target=time.sleep, args=(1000,), daemon=True).start())\n"
    )
    one = server("later", PYTHONPATH=module(tmp_path, "later", text))
    one.fork()
    one.process.send_signal(signal.SIGUSR1)
    while len(os.listdir(f"/proc/{one.process.pid}/task")) < 2:
        pass
    talk, theirs = socket.socketpair()
    talk.settimeout(WAIT_S)
    socket.send_fds(one.control, [b'{"isolate": false}'], [theirs.fileno()])
    theirs.close()
    assert json.loads(talk.recv(4096)) == {"error": "fork: the fork server has 2 threads"}
    talk.close()


def test_variables_that_imports_read_are_told(server: Callable[..., Server], tmp_path: Path) -> None:
    text = "import os\nos.environ.get('FIRST')\nos.getenv('SECOND')\n'THIRD' in os.environ\n"
    one = server("reader", PYTHONPATH=module(tmp_path, "reader", text))
    assert {"FIRST", "SECOND", "THIRD"} <= set(one.report["variables"])


def test_a_failing_import_is_told_and_costs_nothing_else(server: Callable[..., Server], tmp_path: Path) -> None:
    one = server("broken", "decimal", PYTHONPATH=module(tmp_path, "broken", "import not_there\n"))
    assert one.report["failed"] == {"broken": "No module named 'not_there'"}
    assert one.fork().value("'decimal' in sys.modules") == "True"


def test_exits_are_the_parents(server: Callable[..., Server]) -> None:
    one = server()
    for code, want in (("os._exit(7)", 7), ("os.abort()", -signal.SIGABRT)):
        fork = one.fork()
        with pytest.raises(ConnectionError):
            fork.value(code)
        assert os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1]) == want
    # SIGTERM lets it leave in order, and the fork server knows nothing of it.
    fork = one.fork()
    fork.value("1")
    os.kill(fork.pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1]) == 0
    assert one.process.poll() is None


def test_a_forks_mark_is_its_own(server: Callable[..., Server]) -> None:
    one = server()
    fork = one.fork()
    assert b"PORTICO_PROCESS=" + b"b" * 32 in Path(f"/proc/{fork.pid}/environ").read_bytes()
    assert b"PORTICO_PROCESS=" + b"a" * 32 in Path(f"/proc/{one.process.pid}/environ").read_bytes()


def test_thread_pools_are_sized_after_the_fork(server: Callable[..., Server]) -> None:
    one = server("numpy")
    if "numpy" not in one.report["modules"]:
        pytest.skip("numpy is not installed")
    count = "[p['num_threads'] for p in __import__('threadpoolctl').threadpool_info()]"
    fork = one.fork(OMP_NUM_THREADS="2")
    fork.value("__import__('numpy').ones((500, 500)) @ __import__('numpy').ones((500, 500)) is None")
    assert fork.value(count) in ("[2]", "[2, 2]")


def test_a_worker_that_cannot_be_set_up_says_why(server: Callable[..., Server]) -> None:
    one = server()
    talk, theirs = socket.socketpair()
    talk.settimeout(WAIT_S)
    socket.send_fds(one.control, [b'{"isolate": false}'], [theirs.fileno()])
    theirs.close()
    lines = talk.makefile("rb")
    assert lines.readline() == b"{}\n"
    talk.sendall(b'{"uid": 0}\n')
    assert lines.readline() == b"{}\n"
    talk.sendall(json.dumps({"argv": [], "env": {}, "dir": "/no/such/folder", "files": []}).encode() + b"\n")
    assert "FileNotFoundError" in json.loads(lines.readline())["error"]
    assert lines.readline() == b""
    talk.close()
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 125


@pytest.mark.parametrize("at_once", [True, False])
def test_pages_are_copied_before_they_are_written_to(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, size = 200, os.sysconf("SC_PAGE_SIZE")
    memory = mmap.mmap(-1, pages * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"a" * len(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # Each second page is a range. The kernel refuses the call for all of them, as before Linux 6.13.
    ranges = b"".join(forkserver._RANGE.pack(start + n * size, size) for n in range(0, pages, 2))
    if not at_once:
        monkeypatch.setattr(forkserver, "_PROCESS_MADVISE", -1)
    talk, theirs = socket.socketpair()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        faults = []
        forkserver._touch(ctypes.CDLL(None, use_errno=True), ranges, talk)
        for first in (0, 1):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for n in range(first, pages, 2):
                memory[n * size] = 98
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        os.write(tell, json.dumps(faults).encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    copied, others = json.loads(os.read(told, 100))
    os.close(told)
    talk.close()
    theirs.close()
    assert others >= pages // 2
    assert copied < pages // 4
    assert memory[0] == ord("a")


def test_copying_ends_when_the_plan_is_there() -> None:
    talk, theirs = socket.socketpair()
    theirs.sendall(b"{}")
    called: list[int] = []

    class Library:
        @staticmethod
        def madvise(*_: object) -> int:
            return 0

        @staticmethod
        def syscall(number: int, *_: object) -> int:
            if number == forkserver._PROCESS_MADVISE:
                called.append(1)
            return -1 if number == forkserver._PIDFD_OPEN else 0

    forkserver._touch(Library, forkserver._RANGE.pack(0, 4096) * 100, talk)
    assert not called
    talk.recv(10)
    forkserver._touch(Library, forkserver._RANGE.pack(0, 4096) * 100, talk)
    assert len(called) == -(-100 // forkserver.TOUCHED_AT_ONCE)
    talk.close()
    theirs.close()


def test_variables_and_threads_of_first_times_count() -> None:
    code = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from portico_worker import forkserver
forkserver._warm = lambda: os.environ.get("READ_AT_FIRST_USE")
assert "READ_AT_FIRST_USE" in forkserver._prepare([])["variables"]
end = threading.Event()
forkserver._warm = threading.Thread(target=end.wait).start
try:
    forkserver._prepare([])
except forkserver.Unfit as unfit:
    print(unfit)
end.set()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(RUNTIME.parent)], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.stdout == "first use of the imports leaves 1 more threads behind\n", done.stderr
