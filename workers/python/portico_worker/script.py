"""The scoring script: finding it, holding it to its contract, and turning requests into what run() takes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import logging
import os
import sys
import urllib.parse
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, Protocol

from . import compat, flaskbridge, hints, openapi, page, rawhttp, settings
from .http1 import Refused, Request
from .log import LOGGER
from .settings import ScriptError

if TYPE_CHECKING:
    from . import joint as joints

MODULE = "entry_module"  # the name under which the script is imported
HEADERLESS = "PORTICO_HEADERLESS"  # set: answers are given again to requests whose headers nobody compares
CLOUDPICKLES = tuple(f"{package}.cloudpickle" for package in (
    "cloudpickle", "joblib.externals.cloudpickle", "pyspark.cloudpickle", "ray.cloudpickle",
))  # fmt: skip
TREE_LINES = 200  # of the model folder, logged when init fails

_log = logging.getLogger(LOGGER)


class Scorer(Protocol):
    """What the loop serves."""

    any_method: bool  # OPTIONS and HEAD too are its business
    joint: joints.Joint | None  # what scores joined requests; None where none come
    routes: frozenset[bytes]  # the paths whose requests bind() takes

    def init(self) -> None:
        """Get ready; whatever it raises ends the worker."""

    def documents(self) -> openapi.Documents:
        """What /swagger.json tells, once init() has returned; raises ScriptError."""

    def bind(self, request: Request) -> Callable[[], Any]:
        """Convert the input. The result gives the answer's content; raises Refused for input that is not scored."""


class Script:
    """A loaded scoring script."""

    routes = frozenset((b"/score",))  # the paths whose requests bind() takes
    joint: joints.Joint | None = None

    def __init__(self, module: ModuleType, run: Callable[..., Any], style: _Style) -> None:
        self.run = run
        self.any_method = style.raw  # OPTIONS and HEAD too are run()'s business
        self._init: Callable[[], Any] = module.init
        self._style = style
        self._flask: flaskbridge.Application | None = None

    def init(self) -> None:
        """Run the script's init()."""
        self._init()
        pickle_by_value()  # what init() has imported
        if flaskbridge.imported():
            self._flask = flaskbridge.Application()

    def documents(self) -> openapi.Documents:
        """See Scorer."""
        return openapi.Documents(self.run)

    def bind(self, request: Request) -> Callable[[], Any]:
        """Convert the input. The result calls run(); raises Refused for input that run() never sees."""
        run, style, flask = self.run, self._style, self._flask
        if flask is None and not style.special:
            data = raw_data(request)
            return lambda: run(data)
        arguments: dict[str, Any] = {}
        if style.fields is not None:
            arguments = named_data(request, style.fields)
        elif not style.raw:
            arguments = {style.parameter: raw_data(request)}
        elif flask is None:
            arguments = {style.parameter: rawhttp.AMLRequest(request)}
        if style.wants_headers:
            arguments["request_headers"] = dict(rawhttp.fields_of(request))
        if flask is not None:
            application, name = flask, style.parameter if style.raw else None
            return lambda: application.within(request, run, name, arguments)
        return lambda: run(**arguments)


class _Style:
    """How run() wants its input: text, named values of a JSON object (fields), or the whole request (raw)."""

    def __init__(self, parameters: list[inspect.Parameter], raw: bool, decorated: bool) -> None:
        data = [p for p in parameters if p.name != "request_headers"]
        self.parameter = data[0].name
        self.wants_headers = len(data) != len(parameters)
        self.raw = raw
        self.fields = data if decorated else None
        keyword = data[0].kind is inspect.Parameter.KEYWORD_ONLY
        self.special = raw or decorated or self.wants_headers or keyword


def raw_data(request: Request) -> str:
    """What an undecorated run() takes: the body as text, or for GET the query as a JSON object."""
    if request.method == b"GET":
        return json.dumps(_query(request))
    try:
        return request.body.decode()
    except UnicodeDecodeError as error:
        raise Refused(400, f"Input cannot be decoded as UTF-8: {error}") from None


def named_data(request: Request, parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """What a run() with @input_schema takes: members of the JSON object in the body, or of the query."""
    values = _query(request) if request.method == b"GET" else _object(request)
    found = {p.name: values.get(p.name, p.default) for p in parameters}
    for name, value in found.items():
        if value is inspect.Parameter.empty:
            raise Refused(400, f"A value is not provided for the {name!r} parameter.")
    return found


def _object(request: Request) -> dict[str, Any]:
    kind = request.fields.get(b"content-type", b"").split(b";")[0].strip().lower()
    if not rawhttp.is_json(kind.decode("latin-1")):
        raise Refused(415, "Expects Content-Type to be application/json")
    if not request.body:
        raise Refused(400, "POST body is empty. Expecting a JSON dictionary.")
    try:
        value = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"POST body could not be decoded as JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(400, "POST body should be a JSON dictionary.")
    return value


def _query(request: Request) -> dict[str, Any]:
    """Each value as JSON where it is JSON, and a list where a name comes more than once."""
    pairs = urllib.parse.parse_qs(request.query.decode("ascii"), keep_blank_values=True)
    values = {name: [_value(v) for v in given] for name, given in pairs.items()}
    return {name: given[0] if len(given) == 1 else given for name, given in values.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def load() -> Scorer:
    """Import the script that the environment names and check its contract; raises ScriptError."""
    root = settings.app_root()
    entry = os.environ.get("AZUREML_ENTRY_SCRIPT", "")
    path = os.path.join(root, entry) if entry else ""
    _prepare_path(root, path)
    _await_debugger()
    module = _import(entry, path)
    if settings.batching():
        from . import joint as joints  # few scripts have a use for it

        return joints.load(module, entry)
    for name in ("init", "run"):
        if not callable(getattr(module, name, None)):
            raise ScriptError(page.SCRIPT, f"the scoring script {entry or 'main.py'} has no function {name}()")
    must_be_plain("init()", module.init)
    # Generated driver modules forward run() wrongly when it is decorated: theirs is passed over, their init() is not.
    inner = getattr(module, "driver_module", None)
    run = inner.run if isinstance(inner, ModuleType) and callable(getattr(inner, "run", None)) else module.run
    style = _check(run)
    _refuse_headers(style)
    hints.look(run)
    return Script(module, run, style)


def _refuse_headers(style: _Style) -> None:
    reads = ""
    if style.raw:
        reads = "run() is decorated with @rawhttp and so sees request headers"
    elif style.wants_headers:
        reads = "run() has the parameter request_headers"
    elif flaskbridge.imported():
        reads = "the script imports flask, whose request has headers"
    headerless(reads)


def headerless(reads: str) -> None:
    """Hold a script whose answers are given again to its word: no header, which it reads, goes into them."""
    if reads and os.environ.get(HEADERLESS):
        reason = (
            f"{reads}, but the deployment has a response cache without vary: name in response_cache.vary the headers "
            "that answers depend on, or leave response_cache out"
        )
        raise ScriptError(page.SCRIPT, reason)


def _await_debugger() -> None:
    """Connect to the debugger that the environment names, and wait for it; raises ScriptError."""
    port = settings.number("AZUREML_DEBUG_PORT", 0)
    if not port:
        return
    _log.warning("AZUREML_DEBUG_PORT is set: waiting for a debugger at port %d", port)
    try:
        debugpy = importlib.import_module("debugpy")
        debugpy.connect(port)
        debugpy.wait_for_client()
    except Exception as error:
        raise ScriptError(page.SCRIPT, f"AZUREML_DEBUG_PORT is set, but {describe(error)}") from None


def _prepare_path(root: str, path: str) -> None:
    """Make imports work as under the reference server: working directory, code root, folder of the script."""
    if os.path.isdir(root):
        os.chdir(root)
    wanted = [os.path.dirname(path)] if path else []
    wanted.append(root)
    source = os.environ.get("AZUREML_SOURCE_DIRECTORY")
    if source:
        wanted.append(os.path.join(root, source))
    for directory in reversed(wanted):
        if directory in sys.path:
            sys.path.remove(directory)
        sys.path.insert(0, directory)
    if path:
        # Processes that the script starts anew import it by its module's name, which is not that of its file.
        sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "children"))


def pickle_by_value() -> None:
    """Let cloudpickle, joblib's copy of it too, send the script's functions to other processes with what they use.

    It does so for modules that are not in sys.modules, as the script is not under the reference server. Then a function
    finds the model there that init() has loaded here.
    """
    script = sys.modules.get(MODULE)
    for name in CLOUDPICKLES:  # by name: to look at every module there is, a fork would have to copy them
        register = getattr(sys.modules.get(name), "register_pickle_by_value", None)
        if script is not None and register is not None:
            register(script)


def _import(entry: str, path: str) -> ModuleType:
    try:
        if not entry:
            return importlib.import_module("main")
        if not os.path.isfile(path):
            raise ScriptError(page.SCRIPT, f"the scoring script {entry} does not exist in the code folder")
        spec = importlib.util.spec_from_file_location(MODULE, path)
        if spec is None or spec.loader is None:
            raise ScriptError(page.SCRIPT, f"the scoring script {entry} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[MODULE] = module
        spec.loader.exec_module(module)
        pickle_by_value()
        return module
    except ScriptError:
        raise
    except (ImportError, SyntaxError, NotImplementedError) as error:
        _log.exception("importing the scoring script failed")
        raise ScriptError(page.SCRIPT, f"importing {entry or 'main.py'} raised {describe(error)}") from None
    except BaseException as error:
        _log.exception("importing the scoring script failed")
        raise ScriptError(page.IMPORT, f"importing {entry or 'main.py'} raised {describe(error)}") from None


def _check(run: Callable[..., Any]) -> _Style:
    """Find out how run() wants its input; raises ScriptError where that contradicts itself."""

    def bad(reason: str) -> ScriptError:
        return ScriptError(page.SCRIPT, reason)

    raw = compat.takes_the_request()
    schemas = compat.schema_module()
    decorated = schemas is not None and schemas.is_schema_decorated(run)
    if raw and decorated:
        raise bad("run() cannot be decorated with both @rawhttp and @input_schema")
    must_be_plain("run()", run)
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except (TypeError, ValueError):
        raise bad("run() has no signature that can be read; wrap it in a plain function") from None
    for p in parameters:
        if p.kind not in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
            raise bad("run() cannot accept positional-only arguments, *args, or **kwargs")
    data = [p for p in parameters if p.name != "request_headers"]
    if not data:
        raise bad("run() must accept a parameter for the input data")
    more = [p.name for p in data[1:] if p.default is p.empty]
    if more and not decorated:
        raise bad(f"run() takes more than one input parameter ({', '.join(more)}), which needs @input_schema")
    return _Style(parameters, raw, decorated)


def must_be_plain(name: str, function: Callable[..., Any]) -> None:
    """Refuse functions of which a call runs nothing: the model would not be loaded, no request succeed."""
    if inspect.iscoroutinefunction(function):
        raise ScriptError(page.SCRIPT, f"{name} is a coroutine function; it must be a plain function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        streams = "; to stream an answer return AMLResponse(generator, 200)" if name == "run()" else ""
        raise ScriptError(page.SCRIPT, f"{name} is a generator function; it must be a plain function{streams}")


def describe(error: BaseException) -> str:
    """Name an exception in one line: 'ValueError: no such column'."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except BaseException:  # its __str__ is the script's own, and fails
        return name
    return f"{name}: {text}" if text else name


def log_model_tree() -> None:
    """Log what the model folder holds: the most common reason why init() fails is a wrong path in it."""
    folder = os.environ.get("AZUREML_MODEL_DIR", "")
    if not os.path.isdir(folder):
        _log.error("AZUREML_MODEL_DIR is %s", f"{folder}, which does not exist" if folder else "not set")
        return
    lines = [f"AZUREML_MODEL_DIR is {folder} and holds:"]
    for place, folders, files in os.walk(folder):
        folders.sort()
        relative = os.path.relpath(place, folder)
        for name in sorted(files):
            if len(lines) > TREE_LINES:
                lines.append("  ...")
                break
            lines.append("  " + os.path.normpath(os.path.join(relative, name)))
        if len(lines) > TREE_LINES:
            break
    _log.error("\n".join(lines))
