"""The worker's life: map the page, load the script, run init(), serve, leave."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading

from . import compat, hints, settings
from . import page as pages
from . import script as scripts
from .log import LOGGER, Logs
from .loop import Loop

LISTENER_FD, PAGE_FD = 3, 4
EXIT_SCRIPT = 3  # the script is at fault; the status page says why

_log = logging.getLogger(LOGGER)


def main(logs: Logs | None = None) -> int:
    """Serve until SIGTERM; the exit status. The logs are given where they were made before a fork."""
    page = pages.Page(PAGE_FD)
    os.close(PAGE_FD)  # the mapping stays
    listener = socket.socket(fileno=LISTENER_FD)
    listener.set_inheritable(False)
    faulthandler.enable(sys.__stderr__)  # type: ignore[arg-type]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the server, which drains first
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # nothing can be canceled before init() has returned
    logs = logs or Logs()
    _shorten_scratch()
    try:
        compat.offer()
        settings.load()
        configure(logs)
        _collect()
        script = _prepare(page)
        loop = Loop(listener, page, script, script.documents(), logs)
    except settings.ScriptError as error:
        _log.error("%s", error)
        page.fail(error.kind, str(error))
        logs.end_request()
        return _leave(EXIT_SCRIPT)
    loop.listen_to_signals()
    if not loop.awaited():
        hints.tell()
    page.set_state(pages.READY)
    loop.serve()
    logs.end_request()
    if "portico_worker.monitoring" in sys.modules:
        from . import monitoring

        monitoring.flush()
    return _leave(0)


SOCKET_PATH_MAX = 107  # bytes of the path of a Unix socket
_SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"  # what multiprocessing adds to the folder for temporary files
_SHORT = "/tmp/scratch"


def _shorten_scratch() -> None:
    """Give the folder for temporary files a short name, where its own is too long for the sockets of multiprocessing.

    The name lies in /tmp, if that is the worker's alone: the sandbox's, by the name of what is mounted there.
    """
    folder = os.environ.get("TMPDIR", "")
    if len(os.fsencode(folder)) + len(_SOCKET) <= SOCKET_PATH_MAX:
        return
    with contextlib.suppress(OSError):
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            own = any(line.split()[4] == "/tmp" and line.endswith(" portico", 0, line.rfind(" ")) for line in mounts)
        if own:
            os.symlink(folder, _SHORT)
            os.environ["TMPDIR"] = _SHORT


def configure(logs: Logs) -> None:
    """Let a logging.json beside the script take over; raises ScriptError."""
    try:
        logs.configure(settings.directories())
    except Exception as error:
        raise settings.ScriptError(pages.SCRIPT, f"logging.json cannot be used: {scripts.describe(error)}") from None


def _collect() -> None:
    if os.environ.get("PORTICO_DATA_COLLECTOR"):
        from . import monitoring  # workers that collect nothing have no use for it

        monitoring.prepare()


def _load() -> scripts.Scorer:
    folder = settings.mlflow_model()
    if not folder:
        return scripts.load()
    from .mlflowmodel import Model  # a scoring script has no use for it

    return Model(folder)


def _prepare(page: pages.Page) -> scripts.Scorer:
    script = _load()
    page.set_state(pages.INIT_RUNNING)
    _log.info("init() runs")
    try:
        script.init()
    except settings.ScriptError:
        raise
    except BaseException as error:
        _log.error("init() raised %s", type(error).__name__, exc_info=error)
        scripts.log_model_tree()
        raise settings.ScriptError(pages.INIT, f"init() raised {scripts.describe(error)}") from None
    _log.info("init() has returned")
    return script


def _leave(status: int) -> int:
    """Give the exit status. Threads that user code left running must not keep the process alive."""
    others = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if others:
        _log.info("exiting although threads run: %s", ", ".join(t.name for t in others))
        logging.shutdown()
        os._exit(status)
    return status
