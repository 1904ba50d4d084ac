"""Strict reading of HTTP/1.1 request heads, and the heads of answers."""

from __future__ import annotations

import re
from http import HTTPStatus

HEAD_MAX = 64 << 10  # bytes of a request head
BODY_MAX = 1 << 30  # bytes of a request body; the front door allows far less
FIELDS_MAX = 128

_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.1\r\n")
_FIELD = re.compile(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\r$", re.MULTILINE)
NUMBER = re.compile(rb"[0-9]{1,19}")
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Refused(Exception):
    """A request that is not served: the status and message of the answer, after which the connection closes."""

    def __init__(self, status: int, message: str, fields: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fields = fields  # of the answer


class Head:
    """A request head without what differs from request to request: number, deadline and id.

    A caller sends the same head again and again, so it is parsed once and found again by its bytes.
    """

    __slots__ = ("closes", "fields", "ids", "length", "method", "path", "query")

    def __init__(self, method: bytes, target: bytes, fields: dict[bytes, bytes]) -> None:
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.fields = fields  # lower-case names
        self.length = _length(fields)
        self.closes = fields.get(b"connection", b"").lower() == b"close"
        self.ids: bytes | None = None  # the loop's: what all answers have, where only the request's id differs


class Request:
    """A request head; body is set once it is there."""

    __slots__ = ("_fields", "body", "deadline", "head", "identity", "length", "method", "path", "query", "sequence")

    def __init__(
        self, head: Head, sequence: int | None = None, deadline: bytes | None = None, identity: bytes | None = None
    ) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.length = head.length
        self.sequence = sequence  # these three are None where they did not come first: look into fields then
        self.deadline = deadline
        self.identity = identity
        self.body: bytes | bytearray = b""
        self._fields: dict[bytes, bytes] | None = None

    @property
    def fields(self) -> dict[bytes, bytes]:
        """All fields, by their lower-case names."""
        if self._fields is None:
            self._fields = self.head.fields
            if self.sequence is not None and self.deadline is not None and self.identity is not None:
                number = b"%d" % self.sequence
                own = {
                    b"x-portico-number": number,
                    b"x-portico-deadline-ms": self.deadline,
                    b"x-request-id": self.identity,
                }
                self._fields = {**own, **self._fields}
        return self._fields

    def number(self, name: bytes) -> int | None:
        """The value of a field that holds a decimal number, None when it is absent."""
        value = self.fields.get(name)
        if value is None:
            return None
        if not NUMBER.fullmatch(value):
            raise Refused(400, f"{name.decode()} is not a number")
        return int(value)


# How a pool begins its requests.
_OURS = re.compile(
    rb"([A-Z]{1,16} /[!-~]* HTTP/1\.1\r\n)x-portico-number: ([0-9]{1,19})\r\nx-portico-deadline-ms: ([0-9]{1,19})\r\n"
    rb"x-request-id: ([!-~]+)\r\n"
)
_known: dict[tuple[bytes, bytes], Head] = {}
KNOWN_MAX = 64  # heads that are remembered
KNOWN_BYTES = 4096  # of one of them


def parse_head(head: bytes) -> Request:
    """Parse a request head that ends with its last field's line end; raises Refused."""
    ours = _OURS.match(head)
    if ours is None:
        return Request(_parse(head))
    line, number, deadline, identity = ours.groups()
    rest = head[ours.end() :]
    known = _known.get((line, rest))
    if known is None:
        known = _parse(line + rest)
        if not known.fields.keys().isdisjoint(_OWN):
            return Request(_parse(head))  # our fields come again: let the whole be judged
        if len(rest) <= KNOWN_BYTES:
            if len(_known) >= KNOWN_MAX:
                _known.clear()
            _known[line, rest] = known
    return Request(known, int(number), deadline, identity)


_OWN = frozenset((b"x-portico-number", b"x-portico-deadline-ms", b"x-request-id"))


def _parse(head: bytes) -> Head:
    line = _LINE.match(head)
    if line is None:
        raise Refused(400, "malformed request line")
    matches = _FIELD.findall(head, line.end())
    if len(matches) != head.count(b"\n") - 1 or len(matches) > FIELDS_MAX:
        raise Refused(400, "malformed or too many header fields")
    fields = {name.lower(): value for name, value in matches}
    if len(fields) != len(matches):
        fields = _merge(matches)
    return Head(line.group(1), line.group(2), fields)


def _merge(matches: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for name, value in matches:
        name = name.lower()
        if name in fields:
            if name == b"content-length" or name == b"host" or name.startswith(b"x-portico-"):
                raise Refused(400, f"more than one {name.decode()} field")
            value = fields[name] + b", " + value
        fields[name] = value
    return fields


def _length(fields: dict[bytes, bytes]) -> int:
    if b"transfer-encoding" in fields:
        raise Refused(501, "a worker takes no transfer-encoding; send content-length")
    value = fields.get(b"content-length")
    if value is None:
        return 0
    value = value.strip()
    if not NUMBER.fullmatch(value):
        raise Refused(400, "malformed content-length")
    length = int(value)
    if length > BODY_MAX:
        raise Refused(413, f"the body is larger than {BODY_MAX} bytes")
    return length
