"""The way to Flask, for scripts that use it or the reference server's own package.

Nothing here imports Flask: only where a script has done so, each of its requests runs in a request context, so that
flask.request, flask.jsonify and the like mean what they mean under the reference server.
"""

from __future__ import annotations

import sys
from typing import Any, Callable

from .http1 import Request
from .rawhttp import AMLRequest


def imported() -> bool:
    """Whether the script, or something it imports, has imported Flask."""
    return "flask" in sys.modules


class Application:
    """A Flask application without routes, for its contexts."""

    def __init__(self) -> None:
        self._flask = sys.modules["flask"].Flask("portico_worker")

    def within(self, request: Request, run: Callable[..., Any], name: str | None, arguments: dict[str, Any]) -> Any:
        """Call run() in the request's context. name is the argument that gets the request object itself."""
        with self._flask.request_context(AMLRequest(request).environ) as context:
            if name is not None:
                arguments = {**arguments, name: context.request}
            return run(**arguments)
