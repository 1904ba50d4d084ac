"""What run() may return, and how it is sent.

Scripts written for the reference server import AMLResponse from its package. Where that is installed its own class is
used; elsewhere the one below stands in under the same name (see compat.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from . import hints
from .rawhttp import Headers

FIELDS_MAX = 48 << 10  # bytes of the headers that a script gives: with our own they pass whoever reads the answer
PLAIN = frozenset((dict, list, str, int, float, bool, tuple))
_BODYLESS = (204, 304)
_CONNECTION_FIELDS = {
    "connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
_SERVER_FIELDS = {"x-request-id", "x-ms-request-id", "x-ms-client-request-id", "x-ms-run-function-failed"}


class Unusable(Exception):
    """run() returned something that cannot be sent."""


class AMLResponse:
    """An answer with a status and headers of the script's choice. A message that is an iterator is streamed."""

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: dict[str, str] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        self.status_code = int(status_code)
        self.headers = Headers()
        self._pieces: Iterable[Any] | None = None
        self._data = b""
        self.headers.add("Content-Type", "text/html; charset=utf-8")
        if message is None or json_str:
            self._data = json.dumps({} if message is None else message).encode()
            self.headers["Content-Type"] = "application/json"
        elif isinstance(message, (str, bytes, bytearray)):
            self._data = encode_piece(message)
        elif hasattr(message, "__len__"):
            self._data = b"".join(encode_piece(piece) for piece in message)
        else:
            self._pieces = iter(message)
        self.headers.set("x-ms-run-function-failed", bool(run_function_failed))
        if any(name.lower() == "content-type" for name in response_headers or {}):
            self.headers.remove("Content-Type")
        for name, value in (response_headers or {}).items():
            for part in value.split(","):
                self.headers.add(name, part.strip())

    @property
    def is_streamed(self) -> bool:
        """Whether the body is made while it is sent."""
        return self._pieces is not None

    @property
    def data(self) -> bytes:
        """The body."""
        return bytes(self.get_data())

    @data.setter
    def data(self, value: Any) -> None:
        self.set_data(value)

    @property
    def content_type(self) -> str:
        """The field Content-Type."""
        return str(self.headers.get("Content-Type", ""))

    @content_type.setter
    def content_type(self, value: str) -> None:
        self.headers["Content-Type"] = value

    @property
    def mimetype(self) -> str:
        """Content-Type without parameters."""
        return self.content_type.split(";")[0].strip()

    @mimetype.setter
    def mimetype(self, value: str) -> None:
        self.content_type = f"{value}; charset=utf-8" if value.startswith("text/") else value

    def get_data(self, as_text: bool = False) -> Any:
        """The body; that of a stream is read to its end first."""
        if self._pieces is not None:
            self._data, self._pieces = b"".join(encode_piece(piece) for piece in self._pieces), None
        return self._data.decode() if as_text else self._data

    def set_data(self, value: Any) -> None:
        """Replace the body."""
        self._data, self._pieces = encode_piece(value), None

    def iter_encoded(self) -> Iterator[bytes]:
        """The body in pieces."""
        for piece in (self._data,) if self._pieces is None else self._pieces:
            yield encode_piece(piece)

    def close(self) -> None:
        """End a stream before its end."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


def encode_piece(piece: Any) -> bytes:
    """Text as UTF-8, bytes as they are; raises TypeError for anything else."""
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"a body is made of str or bytes, not {type(piece).__name__}")


class Answer:
    """What is sent: status, body, fields of the script (encoded, with line ends) and whether run() failed softly."""

    __slots__ = ("body", "failed", "fields", "status", "stream")

    def __init__(self, status: int, body: bytes, fields: bytes, failed: bool, stream: Stream | None = None) -> None:
        self.status = status
        self.body = body
        self.fields = fields
        self.failed = failed
        self.stream = stream  # in place of body


class Stream:
    """A body that is made while it is sent. Everything here may run code of the script, and raise."""

    __slots__ = ("_pieces", "_response")

    def __init__(self, response: Any) -> None:
        self._response = response
        self._pieces = iter(response.iter_encoded())

    def piece(self) -> bytes:
        """The next bytes; empty at the end."""
        for piece in self._pieces:
            if piece:
                return encode_piece(piece)
        return b""

    def close(self) -> None:
        """Let the script tidy up."""
        self._response.close()


def encode(value: Any) -> bytes:
    """JSON as the reference server writes it: ASCII, and NaN as NaN."""
    return json.dumps(value).encode()


def convert(result: Any) -> Answer:
    """Turn what run() returned into an answer; raises Unusable."""
    if result is None:
        return Answer(200, b"{}", b"content-type: application/json\r\n", False)
    if type(result) not in PLAIN and all(hasattr(result, name) for name in ("get_data", "status_code", "headers")):
        return _from_response(result)
    return Answer(200, json_body(result), b"content-type: application/json\r\n", False)


def json_body(result: Any) -> bytes:
    """What run() returned, as JSON; raises Unusable."""
    try:
        return encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        way = hints.of_result(result) or hints.of_part(error)
        raise Unusable(f"run() returned {type(result).__name__}, which is not JSON{way}: {error}") from None


def _from_response(response: Any) -> Answer:
    """AMLResponse of either origin, or any Flask response."""
    stream = None
    try:
        status = int(response.status_code)
        if getattr(response, "is_streamed", False) or getattr(response, "direct_passthrough", False):
            if status in _BODYLESS:  # nothing of the stream is asked for
                response.close()
            else:
                stream = Stream(response)
            body = b""
        else:
            body = bytes(response.get_data())
        pairs = list(response.headers.items()) if hasattr(response.headers, "items") else list(response.headers)
    except Exception as error:
        raise Unusable(f"run() returned a {type(response).__name__} that cannot be read: {error}") from None
    if not 200 <= status <= 599:
        raise Unusable(f"run() returned status {status}, which is not between 200 and 599")
    if status in _BODYLESS:  # AMLResponse(None, 204) has the body {}: it is left out, as the reference server does
        body = b""
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
        try:
            fields += line.encode("latin-1") + b"\r\n"
        except UnicodeEncodeError:
            raise Unusable(f"run() returned a header {name!r} with a character beyond ISO 8859-1") from None
        if len(fields) > FIELDS_MAX:
            raise Unusable(f"run() returned more than {FIELDS_MAX} bytes of headers")
    return Answer(status, body, fields, failed, stream)
