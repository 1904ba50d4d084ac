"""Scripts that score many requests in one call: run_batch(list).

Every element of the list is what run(raw_data) gets of one request, the body as text. The result is a list of the same
length; an exception in it is the error of that request alone.
"""

from __future__ import annotations

import inspect
import logging
from types import ModuleType
from typing import Any, Callable, Protocol

from . import compat, flaskbridge, hints, openapi, page, rawhttp, responses, settings
from .http1 import Request
from .log import LOGGER
from .script import describe, headerless, must_be_plain, pickle_by_value, raw_data

_log = logging.getLogger(LOGGER)
_HEADERS = "request_headers"


class Joint(Protocol):
    """What scores the requests that the pool has joined."""

    def take(self, request: Request) -> Any:
        """The item of a request; raises Refused for one that is not scored."""

    def run(self, items: list[Any]) -> list[Any]:
        """What each item comes to. An exception in place of a result is that item's alone."""


class Item:
    """One request as run_batch() gets it."""

    __slots__ = ("headers", "text")

    def __init__(self, text: str, headers: dict[str, str] | None) -> None:
        self.text = text
        self.headers = headers


class JointScript:
    """A scoring script as a script.Scorer whose requests all go through run_batch(), alone or together."""

    routes = frozenset((b"/score",))
    any_method = False

    def __init__(self, module: ModuleType) -> None:
        self.joint: Joint | None = self
        self._init: Callable[[], Any] = module.init
        self._run_batch: Callable[..., Any] = module.run_batch
        self._wants_headers = _check(module.run_batch)
        self._described = getattr(module, "run", module.run_batch)
        hints.look(module.run_batch)

    def init(self) -> None:
        """Run the script's init()."""
        self._init()
        pickle_by_value()
        if flaskbridge.imported():
            _log.warning("run_batch() runs outside of Flask's request: flask.request is not there")

    def documents(self) -> openapi.Documents:
        """See script.Scorer: the schemas are those of run(), where the script has it."""
        return openapi.Documents(self._described)

    def bind(self, request: Request) -> Callable[[], Any]:
        """See script.Scorer."""
        item = self.take(request)
        return lambda: self._only(item)

    def take(self, request: Request) -> Item:
        """See Joint."""
        headers = dict(rawhttp.fields_of(request)) if self._wants_headers else None
        return Item(raw_data(request), headers)

    def run(self, items: list[Item]) -> list[Any]:
        """See Joint. When the call for all raises, each is scored alone: one caller's input is not another's."""
        try:
            return self._call(items)
        except responses.Unusable:
            raise
        except Exception as error:
            if len(items) == 1:
                raise
            text = "run_batch() raised %s for %d requests: each is run alone now"
            _log.warning(text, describe(error), len(items))
        return [self._alone(item) for item in items]

    def _only(self, item: Item) -> Any:
        result = self._call([item])[0]
        if isinstance(result, Exception):
            raise result
        return result

    def _alone(self, item: Item) -> Any:
        try:
            return self._only(item)
        except Exception as error:
            return error

    def _call(self, items: list[Item]) -> list[Any]:
        texts = [item.text for item in items]
        if self._wants_headers:
            results = self._run_batch(texts, request_headers=[item.headers for item in items])
        else:
            results = self._run_batch(texts)
        if not isinstance(results, (list, tuple)):
            raise responses.Unusable(
                f"run_batch() returned {type(results).__name__}, not a list{hints.of_result(results)}"
            )
        if len(results) != len(items):
            raise responses.Unusable(f"run_batch() returned {len(results)} results for {len(items)} requests")
        return list(results)


def load(module: ModuleType, entry: str) -> JointScript:
    """Hold a script to the contract of batching; raises ScriptError."""
    for name in ("init", "run_batch"):
        if not callable(getattr(module, name, None)):
            need = "" if name == "init" else ", which batching needs. Add it, or turn batching off"
            raise settings.ScriptError(
                page.SCRIPT, f"the scoring script {entry or 'main.py'} has no function {name}(){need}"
            )
    must_be_plain("init()", module.init)
    return JointScript(module)


def _check(run_batch: Callable[..., Any]) -> bool:
    """Whether run_batch() takes the header fields too; raises ScriptError where its signature cannot be served."""

    def bad(reason: str) -> settings.ScriptError:
        return settings.ScriptError(page.SCRIPT, reason)

    schemas = compat.schema_module()
    if schemas is not None and schemas.is_schema_decorated(run_batch):
        raise bad("run_batch() cannot be decorated with @input_schema: it takes a list of request bodies as text")
    if compat.takes_the_request():
        raise bad("a script that uses @rawhttp cannot be batched: run_batch() takes a list of request bodies as text")
    must_be_plain("run_batch()", run_batch)
    try:
        parameters = list(inspect.signature(run_batch).parameters.values())
    except (TypeError, ValueError):
        raise bad("run_batch() has no signature that can be read; wrap it in a plain function") from None
    data = [p for p in parameters if p.name != _HEADERS]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not data or data[0].kind not in positional or any(p.default is p.empty for p in data[1:]):
        raise bad("run_batch() must take one parameter, the list of request bodies, and may take request_headers")
    wants_headers = len(data) != len(parameters)
    headerless("run_batch() has the parameter request_headers" if wants_headers else "")
    return wants_headers
