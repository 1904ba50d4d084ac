"""What run() may return, and the names that scripts import to say more than a value.

Scripts written for the reference server import AMLResponse from `azureml_inference_server_http.api.aml_response`.
Where that package is installed its own class is used; elsewhere the one below stands in under the same name, and
names that this server does not support yet fail on import with a sentence that says so.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_PLAIN = frozenset((dict, list, str, int, float, bool, tuple))
_PACKAGE = "azureml_inference_server_http"
_CONNECTION_FIELDS = {
    "connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
_SERVER_FIELDS = {"x-request-id", "x-ms-request-id", "x-ms-client-request-id", "x-ms-run-function-failed"}


class Unusable(Exception):
    """run() returned something that cannot be sent."""


class AMLResponse:
    """An answer with a status and headers of the script's choice."""

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: dict[str, str] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        self.status_code = int(status_code)
        self.headers: list[tuple[str, str]] = []
        given = {name.lower() for name in response_headers or {}}
        if message is None or json_str:
            self._data = json.dumps({} if message is None else message).encode()
            content_type = "application/json"
        else:
            self._data = message.encode() if isinstance(message, str) else bytes(message)
            content_type = "text/html; charset=utf-8"
        if "content-type" not in given:
            self.headers.append(("Content-Type", content_type))
        self.headers.append(("x-ms-run-function-failed", str(bool(run_function_failed))))
        for name, value in (response_headers or {}).items():
            self.headers += [(name, part.strip()) for part in value.split(",")]

    def get_data(self) -> bytes:
        """The body."""
        return self._data


class Answer:
    """What is sent: status, body, fields of the script (encoded, with line ends) and whether run() failed softly."""

    __slots__ = ("body", "failed", "fields", "status")

    def __init__(self, status: int, body: bytes, fields: bytes, failed: bool) -> None:
        self.status = status
        self.body = body
        self.fields = fields
        self.failed = failed


def encode(value: Any) -> bytes:
    """JSON as the reference server writes it: ASCII, and NaN as NaN."""
    return json.dumps(value).encode()


def convert(result: Any) -> Answer:
    """Turn what run() returned into an answer; raises Unusable."""
    if result is None:
        return Answer(200, b"{}", b"content-type: application/json\r\n", False)
    if type(result) not in _PLAIN and all(hasattr(result, name) for name in ("get_data", "status_code", "headers")):
        return _from_response(result)
    try:
        body = encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable(f"run() returned {type(result).__name__}, which is not JSON: {error}") from None
    return Answer(200, body, b"content-type: application/json\r\n", False)


def _from_response(response: Any) -> Answer:
    """AMLResponse of either origin, or any Flask response."""
    try:
        status = int(response.status_code)
        body = bytes(response.get_data())
        pairs = list(response.headers.items()) if hasattr(response.headers, "items") else list(response.headers)
    except Exception as error:
        raise Unusable(f"run() returned a {type(response).__name__} that cannot be read: {error}") from None
    if not 200 <= status <= 599:
        raise Unusable(f"run() returned status {status}, which is not between 200 and 599")
    if status in (204, 304) and body:
        raise Unusable(f"run() returned a body with status {status}, which has none")
    failed = status >= 500
    fields = b""
    for name, value in pairs:
        lower = str(name).lower()
        if lower == "x-ms-run-function-failed":
            failed = failed or str(value) == "True"
        if lower in _CONNECTION_FIELDS or lower in _SERVER_FIELDS:
            continue
        line = f"{name}: {value}"
        if not lower.isascii() or not lower.replace("-", "").replace("_", "").isalnum() or not line.isprintable():
            raise Unusable(f"run() returned a header {name!r} that cannot be sent")
        fields += line.encode("latin-1", "replace") + b"\r\n"
    return Answer(status, body, fields, failed)


def _unsupported(name: str) -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{name} is not supported by this server yet; return AMLResponse from a plain run()")

    return refuse


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands last on sys.meta_path, so that an installed package always wins."""

    _names = (_PACKAGE, _PACKAGE + ".api", _PACKAGE + ".api.aml_request", _PACKAGE + ".api.aml_response")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=not fullname.startswith(_PACKAGE + ".api.aml"))

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__.endswith(".aml_response"):
            module.__dict__["AMLResponse"] = AMLResponse
        if module.__name__.endswith(".aml_request"):
            module.__dict__["AMLRequest"] = _unsupported("AMLRequest")
            module.__dict__["rawhttp"] = _unsupported("@rawhttp")


def offer() -> None:
    """Make the names importable."""
    sys.meta_path.append(_Finder())
