"""The fork server: a process that has imported the packages of an environment, and forks workers that have them too.

It never imports or sees user code, and holds no secret: code, model, variables and secrets reach a child afterwards.
Descriptor 3 is its control socket. It sends one report there (JSON), and then gets one message for each child that is
wanted, with a socket on which the child talks to the supervisor. A child

1. says that it is born, in a session and, where it is asked to, in user, mount and IPC namespaces of its own;
2. is told its user id, becomes that user, gives up every privilege and says so;
3. is told which pages the last fork has written to, and has the kernel copy them while there is nothing else to do;
4. waits for its plan: arguments, environment, working directory, and the descriptors 0 to 4. Then it is a worker.

The supervisor checks what a child says from outside: nothing here is trusted by it. Children are forked with
CLONE_PARENT, so that they are the supervisor's own children and live on when the fork server does not.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import importlib.util
import inspect
import io
import json
import os
import platform
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import uuid
from typing import Any

from . import compat, forkstate, hints, http1, mlflowmodel, responses
from .log import Logs

CONTROL_FD = 3
MESSAGE_MAX = 4096  # bytes of a message of the supervisor on the control socket
CHUNK = 65536
DESCRIPTORS_MAX = 1024  # that imports may have left open
HIGH_FD = 64  # from here on descriptors are out of the way of those that a plan gives
TOUCHED_AT_ONCE = 16  # ranges of pages, between two looks for the plan
EXIT_SET_UP = 125  # of a child that could not be set up
NAMES_MAX = 2000  # reported modules and variables, each
REHEARSALS = 10  # until the interpreter has made the code as fast as it gets

# What reading a pickled model imports, although the script names only the reader: where scikit-learn is installed, its
# estimators.
_READERS = {"cloudpickle", "dill", "joblib", "pickle", "skops"}
_SKLEARN = (
    "sklearn.calibration", "sklearn.cluster", "sklearn.compose", "sklearn.decomposition", "sklearn.dummy",
    "sklearn.ensemble", "sklearn.feature_extraction.text", "sklearn.feature_selection", "sklearn.impute",
    "sklearn.isotonic", "sklearn.linear_model", "sklearn.model_selection", "sklearn.naive_bayes", "sklearn.neighbors",
    "sklearn.neural_network", "sklearn.pipeline", "sklearn.preprocessing", "sklearn.svm", "sklearn.tree",
)  # fmt: skip

# Modules of the worker that it imports when it needs them.
_OWN = ("rawhttp", "responses", "schema", "schematypes", "flaskbridge")

_CLONE_PARENT, _CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x8000, 0x200000, 0x1000000
_NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x08000000  # user, mount, IPC
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_GET_TID_ADDRESS = 1, 4, 24, 40
_MADV_POPULATE_WRITE = 23
_PIDFD_OPEN, _PROCESS_MADVISE = 434, 440  # on every processor
_RANGE = struct.Struct("NN")  # struct iovec: address, length in bytes
_CAPABILITY_VERSION_3 = 0x20080522
_CLONE_NUMBERS = {"x86_64": 56, "aarch64": 220}


class Unfit(Exception):
    """Nothing can be forked from this process. The message says why."""


def serve(names: list[str]) -> Logs | None:
    """Import what is named and fork until the supervisor hangs up. In a child that is to be a worker: its logs."""
    gc.disable()  # what it frees would be holes, into which children then write
    control = socket.socket(fileno=CONTROL_FD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the server
    try:
        fork = _Fork()
        report = _prepare(names)
    except Unfit as unfit:
        control.send(json.dumps({"unfit": str(unfit)}).encode())
        return None
    logs = _ready()
    gc.freeze()  # the collector must not write to pages that children share
    control.send(json.dumps(report).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_MAX, 16)
        if not message:
            return None
        talk, *tasks = descriptors
        try:
            pid = fork()
        except OSError as error:
            with contextlib.suppress(OSError):  # the supervisor may have hung up
                os.write(talk, json.dumps({"error": f"fork: {error.strerror}"}).encode() + b"\n")
            pid = -1
        if pid == 0:
            gc.enable()
            control.close()
            high = fcntl.fcntl(talk, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
            os.close(talk)
            _become(socket.socket(fileno=high), tasks, bool(json.loads(message)["isolate"]))
            return logs
        for descriptor in descriptors:
            os.close(descriptor)


def _warm() -> None:
    """Do once what every worker does first, so that what it makes (patterns, codecs, caches) is there already."""
    hints.find(forkstate.reseed)
    inspect.signature(forkstate.reseed)
    request = http1.parse_head(b"POST /score HTTP/1.1\r\ncontent-length: 0\r\nx-portico-number: 1")
    request.number(b"x-portico-number")
    responses.convert({"warm": [1, 2.5, "text"]})
    str(uuid.uuid4()).encode("latin-1")
    time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(0))
    if "sklearn.linear_model" in sys.modules and "joblib" in sys.modules:
        with contextlib.suppress(Exception):  # of another version: then a worker does it first
            for _ in range(REHEARSALS):
                _rehearse_sklearn()


def _rehearse_sklearn() -> None:
    """Read a model and ask it, as nearly every script with scikit-learn does: both fill caches at their first time."""
    numpy, joblib = sys.modules["numpy"], sys.modules["joblib"]
    model = sys.modules["sklearn.linear_model"].LogisticRegression()
    model.classes_, model.n_features_in_ = numpy.array([0, 1]), 2
    model.coef_, model.intercept_ = numpy.ones((1, 2)), numpy.zeros(1)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    joblib.load(file).predict(numpy.array([[1.0, 2.0]])).tolist()


def _ready() -> Logs:
    """Make what is the same for every worker: for what a child need not do it need not copy pages."""
    for path in [path for path, finder in sys.path_importer_cache.items() if finder is None]:
        del sys.path_importer_cache[path]  # what is not there for the fork server may be there for a child
    compat.offer()
    return Logs()


def threads() -> int:
    """How many threads this process has, whoever started them."""
    return len(os.listdir("/proc/self/task"))


def _prepare(names: list[str]) -> dict[str, Any]:
    """Import the modules that are installed. The report for the supervisor; raises Unfit."""
    fresh = set(sys.modules)
    for name, value in mlflowmodel.SETTINGS.items():
        os.environ.setdefault(name, value)
    own = [f"{__package__}.{name}" for name in _OWN]
    failed: dict[str, str] = {}
    with forkstate.ReadVariables() as read:
        for name in own + with_companions(names):
            _import(name, failed)
            if threads() > 1:
                raise Unfit(f"importing {name} leaves {threads() - 1} more threads behind")
        _warm()
        if threads() > 1:
            raise Unfit(f"first use of the imports leaves {threads() - 1} more threads behind")
    if "mlflow.pyfunc" in sys.modules:
        _import(f"{__package__}.mlflowinput", failed)
    modules = {name.partition(".")[0] for name in set(sys.modules) - fresh} - {__package__}
    return {
        "modules": sorted(modules)[:NAMES_MAX],
        "variables": sorted(read.names)[:NAMES_MAX],
        "failed": dict(sorted(failed.items())[:NAMES_MAX]),
    }


def with_companions(names: list[str]) -> list[str]:
    """What is imported for these names: themselves, and what they read."""
    tops = {name.partition(".")[0] for name in names}
    wants = tops & (_READERS | {"sklearn"}) or "mlflow.sklearn" in names
    return names + list(_SKLEARN) if wants and importlib.util.find_spec("sklearn") is not None else names


def _import(name: str, failed: dict[str, str]) -> None:
    """Import one module. What is not installed is the script's own, or an attribute of a module; it is no failure."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (name == missing or name.startswith(missing + ".") or missing.startswith(name)):
            failed[name] = str(error)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"[:200]


class _Fork:
    """Forks this process as a child of its own parent.

    The C library has no call for that, so that the system call is made here, with what its fork() does for a process of
    one thread: the thread's number is stored where the library keeps it (abort() and raise() use it).
    """

    def __init__(self) -> None:
        number = _CLONE_NUMBERS.get(platform.machine())
        if number is None or sys.maxsize < 2**32:
            raise Unfit(f"forking is not known on {platform.machine()}")
        self._python = ctypes.PyDLL(None, use_errno=True)  # every call keeps the interpreter's lock
        if not hasattr(self._python, "gnu_get_libc_version"):
            raise Unfit("the C library is not the GNU one")
        where = ctypes.c_void_p()
        self._python.prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
        self._python.prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(where), None, None, None)
        address = where.value
        if not address or ctypes.c_int.from_address(address).value != os.getpid():
            raise Unfit("the C library does not keep the number of a thread where it was looked for")
        flags = _CLONE_PARENT | _CLONE_CHILD_CLEARTID | _CLONE_CHILD_SETTID | signal.SIGCHLD
        last = (address, 0) if platform.machine() == "x86_64" else (0, address)
        self._arguments = [ctypes.c_long(value) for value in (number, flags, 0, 0, *last)]
        self._python.syscall.restype = ctypes.c_long

    def __call__(self) -> int:
        """Fork: 0 in the child."""
        if threads() > 1:
            raise OSError(0, f"the fork server has {threads()} threads")
        self._python.PyOS_BeforeFork()
        pid: int = self._python.syscall(*self._arguments)
        if pid == 0:
            self._python.PyOS_AfterFork_Child()
            return 0
        error = ctypes.get_errno()
        self._python.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(error, os.strerror(error))
        return pid


def _become(talk: socket.socket, tasks: list[int], isolate: bool) -> None:
    """In the child: be set up, wait for the plan and act on it."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        for descriptor in tasks:  # of cgroups: whoever moves itself waits for nobody
            os.write(descriptor, b"0")
        os.closerange(3, talk.fileno())
        os.closerange(talk.fileno() + 1, DESCRIPTORS_MAX)
        libc = ctypes.CDLL(None, use_errno=True)
        if isolate:
            _check(libc.unshare(_NEW_NAMESPACES), "new namespaces")
        _say(talk, {})
        identity, _ = _hear(talk)
        if isolate:
            _drop(libc, int(identity["uid"]))
        libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        _say(talk, {})
        # Meanwhile the supervisor looks whether it is so, and makes the file system.
        tempfile.tempdir = None  # it was that of the fork server
        forkstate.reseed()
        _touch(libc, base64.b64decode(identity.get("touch", "")), talk)
        plan, descriptors = _hear(talk)
        _take(plan, descriptors)
        _say(talk, {})
        talk.close()
    except BaseException as error:
        try:
            _say(talk, {"error": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(EXIT_SET_UP)


def _touch(libc: Any, ranges: bytes, talk: socket.socket) -> None:
    """Have the kernel copy pages that will be written to, until they are or the plan is there.

    The ranges are as for process_madvise. Their content stays as it is, and what is not mapped here is passed over.
    """
    if not ranges:
        return
    plan = select.poll()
    plan.register(talk, select.POLLIN)
    number, size = ctypes.c_long, ctypes.c_size_t
    libc.syscall.argtypes = [number, number, ctypes.c_char_p, size, number, number]
    libc.madvise.argtypes = [ctypes.c_void_p, size, ctypes.c_int]
    at_once = TOUCHED_AT_ONCE * _RANGE.size
    me = libc.syscall(_PIDFD_OPEN, os.getpid(), None, 0, 0, 0)  # os.pidfd_open is not in every build of Python
    try:
        for at in range(0, len(ranges), at_once):
            if plan.poll(0):
                return
            some = ranges[at : at + at_once]
            if libc.syscall(_PROCESS_MADVISE, me, some, len(some) // _RANGE.size, _MADV_POPULATE_WRITE, 0) >= 0:
                continue
            for address, length in _RANGE.iter_unpack(some):  # before Linux 6.13 they are told one by one
                if libc.madvise(address, length, _MADV_POPULATE_WRITE) != 0 and ctypes.get_errno() == errno.EINVAL:
                    return  # before Linux 5.14
    finally:
        if me >= 0:
            os.close(me)


def _drop(libc: Any, uid: int) -> None:
    """Become a user without privileges. The new user namespace knows no other id."""
    capability = 0
    while libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) == 0:
        capability += 1
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(libc.capset(header, nothing), "give up capabilities")
    libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1), 0, 0, 0)  # as after exec: its own /proc files stay its own


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _take(plan: dict[str, Any], descriptors: list[int]) -> None:
    """Be the process that the plan describes."""
    out_of_the_way = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH_FD) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for number, descriptor in zip(plan["files"], out_of_the_way):
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)
    environment: dict[str, str] = plan["env"]
    forkstate.replace_mark(os.environ.get(forkstate.MARK, ""), environment.get(forkstate.MARK, ""))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(plan["dir"] or "/")
    os.umask(0o022)
    sys.argv[:] = plan["argv"][1:]
    time.tzset()
    forkstate.set_threads()


def _say(talk: socket.socket, message: dict[str, Any]) -> None:
    talk.sendall(json.dumps(message).encode() + b"\n")


def _hear(talk: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One line of the supervisor, with the descriptors that came with it."""
    data, descriptors, _, _ = socket.recv_fds(talk, CHUNK, 16)
    parts = [data]
    while data and not data.endswith(b"\n"):
        data = talk.recv(CHUNK)
        parts.append(data)
    if not data:
        os._exit(EXIT_SET_UP)  # the supervisor is gone, or wants no child any more
    message: dict[str, Any] = json.loads(b"".join(parts))
    return message, list(descriptors)
