"""Which origins a browser may call from (AML_CORS_ORIGINS)."""

from __future__ import annotations

import re

from .http1 import Request

_PATTERN = re.compile(r"[*\\\[\]?$^()]")  # what makes an origin a pattern


class Origins:
    """The allowed origins: names, patterns, or * for all."""

    def __init__(self, text: str) -> None:
        origins = [one.strip() for one in text.split(",") if one.strip()]
        self._all = "*" in origins
        self._exact = {one.lower() for one in origins if not _PATTERN.search(one)}
        self._patterns = [re.compile(one, re.IGNORECASE) for one in origins if one != "*" and _PATTERN.search(one)]
        self._vary = b"" if self._all and not self._patterns else b"Vary: Origin\r\n"

    def fields(self, request: Request) -> bytes:
        """The fields of an answer that say what the browser's page may do with it."""
        origin = request.fields.get(b"origin", b"").strip()
        text = origin.decode("latin-1").lower()
        if self._all:
            allowed = b"*"
        elif origin and (text in self._exact or any(one.match(text) for one in self._patterns)):
            allowed = origin
        else:
            return self._vary
        out = b"Access-Control-Allow-Origin: %b\r\n%b" % (allowed, self._vary)
        if request.method == b"OPTIONS" and b"access-control-request-method" in request.fields:
            out += b"Access-Control-Allow-Methods: GET, POST\r\n"
            asked = request.fields.get(b"access-control-request-headers", b"").strip()
            if asked:
                out += b"Access-Control-Allow-Headers: %b\r\n" % asked
        return out
