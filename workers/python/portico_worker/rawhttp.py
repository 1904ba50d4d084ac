"""The request that a script decorated with @rawhttp gets, and the header that its answers have.

AMLRequest offers what scripts use of Flask's request. Where the reference server's own package is installed, Flask
is too, and its class is used instead (see flaskbridge.py).
"""

from __future__ import annotations

import io
import json
import urllib.parse
from collections.abc import Iterable, Iterator
from email.message import Message
from email.parser import HeaderParser
from http.cookies import CookieError, SimpleCookie
from typing import Any, Callable

from .http1 import Request

PARTS_MAX = 1000  # of a multipart body

_run_takes_the_request = False


def rawhttp(run: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate run() so that it gets the whole request in place of its body."""
    global _run_takes_the_request
    _run_takes_the_request = True
    return run


def wanted() -> bool:
    """Whether a function was decorated. As in the reference server it is the script that is marked, not run()."""
    return _run_takes_the_request


class Headers:
    """Header fields in order, found without regard to case. Iterating gives (name, value)."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = [(name, str(value)) for name, value in pairs]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, name: object) -> bool:
        return any(have.lower() == str(name).lower() for have, _ in self._pairs)

    def __getitem__(self, name: str) -> str:
        for have, value in self._pairs:
            if have.lower() == name.lower():
                return value
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.remove(name)
        self.add(name, value)

    def __delitem__(self, name: str) -> None:
        self.remove(name)

    def __repr__(self) -> str:
        return f"Headers({self._pairs!r})"

    def get(self, name: str, default: Any = None, type: Callable[[str], Any] | None = None) -> Any:
        """The first value, or default when there is none or type() refuses it."""
        try:
            return self[name] if type is None else type(self[name])
        except (KeyError, ValueError):
            return default

    def getlist(self, name: str) -> list[str]:
        """Every value of the name."""
        return [value for have, value in self._pairs if have.lower() == name.lower()]

    get_all = getlist

    def add(self, name: str, value: Any) -> None:
        """Append a field, also when one of this name is there."""
        self._pairs.append((name, str(value)))

    add_header = add

    def set(self, name: str, value: Any) -> None:
        """Replace every field of this name by one."""
        self[name] = value

    def setdefault(self, name: str, value: Any) -> str:
        """The first value; the given one is added where there is none."""
        if name not in self:
            self.add(name, value)
        return self[name]

    def remove(self, name: str) -> None:
        """Take every field of this name away."""
        self._pairs = [(have, value) for have, value in self._pairs if have.lower() != name.lower()]

    def update(self, fields: Any) -> None:
        """Set every field of a mapping or of pairs."""
        for name, value in fields.items() if hasattr(fields, "items") else fields:
            self[name] = value

    def items(self, lower: bool = False) -> list[tuple[str, str]]:
        """Every field."""
        return [(name.lower() if lower else name, value) for name, value in self._pairs]

    def keys(self) -> list[str]:
        """Every name, as often as it stands there."""
        return [name for name, _ in self._pairs]

    def values(self) -> list[str]:
        """Every value."""
        return [value for _, value in self._pairs]


class Values(dict):  # type: ignore[type-arg]
    """Named values of a query, a form or cookies: as a mapping the first of each name, with getlist all."""

    def __init__(self, pairs: Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__()
        self._all: dict[str, list[Any]] = {}
        for name, value in pairs:
            self.setdefault(name, value)
            self._all.setdefault(name, []).append(value)

    def get(self, name: Any, default: Any = None, type: Callable[[Any], Any] | None = None) -> Any:
        """The first value, or default when there is none or type() refuses it."""
        if name not in self:
            return default
        try:
            return self[name] if type is None else type(self[name])
        except (ValueError, TypeError):
            return default

    def getlist(self, name: str) -> list[Any]:
        """Every value of the name."""
        return list(self._all.get(name, ()))

    def lists(self) -> list[tuple[str, list[Any]]]:
        """Every name with all of its values."""
        return [(name, list(values)) for name, values in self._all.items()]

    def to_dict(self, flat: bool = True) -> dict[str, Any]:
        """A plain dict: of first values, or of lists."""
        return dict(self) if flat else dict(self.lists())


class Upload:
    """A file of a multipart form."""

    def __init__(self, name: str, filename: str, headers: Headers, data: bytes) -> None:
        self.name = name
        self.filename = filename
        self.headers = headers
        self.content_type = headers.get("Content-Type", "application/octet-stream")
        self.mimetype = self.content_type.split(";")[0].strip().lower()
        self.content_length = len(data)
        self.stream = io.BytesIO(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)  # read, seek, readlines ...: it is used as a file

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.stream)

    def save(self, target: Any, buffer_size: int = 16384) -> None:
        """Write what has not been read yet to a path or to an open file."""
        if hasattr(target, "write"):
            target.write(self.stream.read())
            return
        with open(target, "wb") as file:
            file.write(self.stream.read())


class BadRequest(ValueError):
    """The body is not what the script took it for."""


class AMLRequest:
    """One request: method, path, query, header and body, under the names that Flask gives them."""

    def __init__(self, request: Request) -> None:
        self.method = request.method.decode()
        self.path = urllib.parse.unquote(request.path.decode("ascii"))
        self.query_string = request.query
        self.headers = Headers(fields_of(request))
        self._body = bytes(request.body)
        self.stream = io.BytesIO(self._body)
        self._form: tuple[Values, Values] | None = None

    def __getattr__(self, name: str) -> Any:
        way = "where the script imports flask, run() gets Flask's own request, which may have it"
        raise AttributeError(f"the request has no {name!r}; {way}")

    @property
    def data(self) -> bytes:
        """The body."""
        return self._body

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """The body, as text when that is asked for."""
        return self._body.decode("utf-8", "replace") if as_text else self._body

    @property
    def content_type(self) -> str | None:
        """The field Content-Type."""
        value: str | None = self.headers.get("Content-Type")
        return value

    @property
    def mimetype(self) -> str:
        """Content-Type without parameters, in lower case."""
        return (self.content_type or "").split(";")[0].strip().lower()

    @property
    def mimetype_params(self) -> dict[str, str]:
        """The parameters of Content-Type."""
        message = Message()
        message["Content-Type"] = self.content_type or ""
        return dict(message.get_params(failobj=[])[1:])

    @property
    def content_length(self) -> int | None:
        """The field Content-Length."""
        length: int | None = self.headers.get("Content-Length", type=int)
        return length

    @property
    def is_json(self) -> bool:
        """Whether Content-Type says that the body is JSON."""
        return is_json(self.mimetype)

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body as JSON; raises BadRequest, or gives None when silent."""
        if not (force or self.is_json):
            if silent:
                return None
            raise BadRequest("the request's Content-Type is not application/json")
        try:
            return json.loads(self._body)
        except ValueError as error:
            if silent:
                return None
            raise BadRequest(f"the request's body is not JSON: {error}") from None

    @property
    def json(self) -> Any:
        """The body as JSON; raises BadRequest."""
        return self.get_json()

    @property
    def args(self) -> Values:
        """The query."""
        return Values(urllib.parse.parse_qsl(self.query_string.decode("ascii"), keep_blank_values=True))

    @property
    def form(self) -> Values:
        """Fields of a form, of either content type."""
        return self._forms()[0]

    @property
    def files(self) -> Values:
        """Files of a multipart form."""
        return self._forms()[1]

    @property
    def values(self) -> Values:
        """Query and form together."""
        return Values([(n, v) for part in (self.args, self.form) for n, all in part.lists() for v in all])

    @property
    def cookies(self) -> Values:
        """Cookies of the caller."""
        try:
            jar = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return Values()
        return Values((name, morsel.value) for name, morsel in jar.items())

    @property
    def host(self) -> str:
        """The field Host."""
        return str(self.headers.get("Host", "localhost"))

    @property
    def scheme(self) -> str:
        """Always http: encryption ends in front of the worker."""
        return "http"

    @property
    def full_path(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query_string.decode('ascii')}"

    @property
    def base_url(self) -> str:
        """The URL without its query."""
        return f"{self.scheme}://{self.host}{self.path}"

    @property
    def url(self) -> str:
        """The URL."""
        return self.base_url + (f"?{self.query_string.decode('ascii')}" if self.query_string else "")

    @property
    def remote_addr(self) -> str | None:
        """Unknown behind a front door; the caller's address stands in X-Forwarded-For where one passes it on."""
        return None

    @property
    def user_agent(self) -> UserAgent:
        """The field User-Agent."""
        return UserAgent(self.headers.get("User-Agent", ""))

    @property
    def referrer(self) -> str | None:
        """The field Referer."""
        return self._field("Referer")

    @property
    def origin(self) -> str | None:
        """The field Origin."""
        return self._field("Origin")

    @property
    def content_encoding(self) -> str | None:
        """The field Content-Encoding."""
        return self._field("Content-Encoding")

    @property
    def is_secure(self) -> bool:
        """Never: see scheme."""
        return False

    def _field(self, name: str) -> str | None:
        value: str | None = self.headers.get(name)
        return value

    @property
    def environ(self) -> dict[str, Any]:
        """The request as WSGI says it."""
        out: dict[str, Any] = {
            "REQUEST_METHOD": self.method, "SCRIPT_NAME": "", "PATH_INFO": self.path,
            "QUERY_STRING": self.query_string.decode("ascii"), "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": self.host.partition(":")[0], "SERVER_PORT": self.host.partition(":")[2] or "80",
            "wsgi.version": (1, 0), "wsgi.url_scheme": self.scheme, "wsgi.input": io.BytesIO(self._body),
            "wsgi.errors": io.StringIO(), "wsgi.multithread": False, "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }  # fmt: skip
        for name, value in self.headers:
            key = name.upper().replace("-", "_")
            out[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key] = value
        return out

    def _forms(self) -> tuple[Values, Values]:
        if self._form is None:
            if self.mimetype == "application/x-www-form-urlencoded":
                text = self._body.decode("utf-8", "replace")
                self._form = Values(urllib.parse.parse_qsl(text, keep_blank_values=True)), Values()
            elif self.mimetype == "multipart/form-data":
                self._form = _multipart(self._body, self.mimetype_params.get("boundary", ""))
            else:
                self._form = Values(), Values()
        return self._form


class UserAgent(str):
    """The field User-Agent."""

    @property
    def string(self) -> str:
        """The field as it came."""
        return str(self)


def is_json(mimetype: str) -> bool:
    """Whether a media type in lower case says JSON."""
    return mimetype == "application/json" or mimetype.startswith("application/") and mimetype.endswith("+json")


def fields_of(request: Request) -> list[tuple[str, str]]:
    """The request's fields under the names that WSGI servers give them: Content-Type, X-Ms-Request-Id."""
    return [
        (name.decode().title(), value.strip().decode("latin-1"))
        for name, value in request.fields.items()
        if not name.startswith(b"x-portico-")
    ]


def _multipart(body: bytes, boundary: str) -> tuple[Values, Values]:
    fields: list[tuple[str, Any]] = []
    files: list[tuple[str, Any]] = []
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace")) if boundary else []
    if len(parts) > PARTS_MAX:
        raise BadRequest(f"the form has more than {PARTS_MAX} parts")
    for part in parts[1:]:
        if part.startswith(b"--"):
            break
        head, found, data = part.partition(b"\r\n\r\n")
        if not found:
            raise BadRequest("the multipart form is malformed")
        message = HeaderParser().parsestr(head.decode("utf-8", "replace").lstrip("\r\n"))
        name = message.get_param("name", "", "content-disposition")
        filename = message.get_filename()
        if filename is None:
            fields.append((str(name), data.decode("utf-8", "replace")))
        else:
            files.append((str(name), Upload(str(name), filename, Headers(message.items()), data)))
    return Values(fields), Values(files)
