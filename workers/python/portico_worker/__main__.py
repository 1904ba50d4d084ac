"""Entry point of `python .../portico_worker`."""

from __future__ import annotations

import os
import sys

FORK_SERVER = "fork-server"  # the first argument of a fork server; names of modules follow


def _start() -> int:
    # Python put this directory first on sys.path. The package is imported from its parent and both are gone
    # again before user code is, so that no module of a scoring script can be shadowed from here.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    sys.path.insert(0, os.path.dirname(here))
    from portico_worker.main import main

    forks = sys.argv[1:2] == [FORK_SERVER]
    if forks:
        from portico_worker import forkserver
    sys.path.pop(0)
    if not forks:
        return main()
    logs = forkserver.serve(sys.argv[2:])
    return main(logs) if logs is not None else 0


if __name__ == "__main__":
    sys.exit(_start())
