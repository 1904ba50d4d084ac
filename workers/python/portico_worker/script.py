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
from typing import Any, Callable

from . import page, responses
from .http1 import Refused, Request
from .log import LOGGER

DEFAULT_APP_ROOT = "/var/azureml-app"
MODULE = "entry_module"  # the name under which the script is imported
TREE_LINES = 200  # of the model folder, logged when init fails

_log = logging.getLogger(LOGGER)

# Settings of the reference server that nothing here acts on: named in the log rather than ignored in silence.
_UNUSED = ("AZUREML_CONFIG_FILE", "AZUREML_DEBUG_PORT", "AML_CORS_ORIGINS", "AML_MODEL_DC_STORAGE_ENABLED")


class ScriptError(Exception):
    """The worker cannot serve. The message is one sentence for the person who deployed the script."""

    def __init__(self, kind: int, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Script:
    """A loaded scoring script."""

    def __init__(self, init: Callable[[], Any], run: Callable[..., Any], parameter: str, wants_headers: bool) -> None:
        self.init = init
        self.run = run
        self.parameter = parameter
        self.wants_headers = wants_headers

    def bind(self, request: Request) -> Callable[[], Any]:
        """Convert the input. The result calls run(); raises Refused for input that run() never sees."""
        run = self.run
        data = raw_data(request)
        if not self.wants_headers:
            return lambda: run(data)
        arguments = {self.parameter: data, "request_headers": headers(request)}
        return lambda: run(**arguments)


def raw_data(request: Request) -> str:
    """What an undecorated run() takes: the body as text, or for GET the query as a JSON object."""
    if request.method == b"GET":
        pairs = urllib.parse.parse_qs(request.query.decode("ascii"), keep_blank_values=True)
        values = {name: [_value(v) for v in given] for name, given in pairs.items()}
        return json.dumps({name: given[0] if len(given) == 1 else given for name, given in values.items()})
    try:
        return request.body.decode()
    except UnicodeDecodeError:
        raise Refused(400, "Input request does not contain valid UTF-8.") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def headers(request: Request) -> dict[str, str]:
    """The request's fields under the names that WSGI servers give them: Content-Type, X-Ms-Request-Id."""
    return {
        name.decode().title(): value.strip().decode("latin-1")
        for name, value in request.fields.items()
        if not name.startswith(b"x-portico-")
    }


def load() -> Script:
    """Import the script that the environment names and check its contract; raises ScriptError."""
    for name in _UNUSED:
        if os.environ.get(name, "").lower() not in ("", "false"):
            _log.warning("%s is set, but this server does not act on it", name)
    root = os.environ.get("AML_APP_ROOT") or DEFAULT_APP_ROOT
    entry = os.environ.get("AZUREML_ENTRY_SCRIPT", "")
    path = os.path.join(root, *entry.split("/")) if entry else ""
    _prepare_path(root, path)
    responses.offer()
    module = _import(entry, path)
    for name in ("init", "run"):
        if not callable(getattr(module, name, None)):
            raise ScriptError(page.SCRIPT, f"the scoring script {entry or 'main.py'} has no function {name}()")
    inner = getattr(module, "driver_module", None)
    run = inner.run if isinstance(inner, ModuleType) and callable(getattr(inner, "run", None)) else module.run
    parameter, wants_headers = _check(run)
    return Script(module.init, run, parameter, wants_headers)


def directories() -> list[str]:
    """Where configuration beside the script may lie."""
    root = os.environ.get("AML_APP_ROOT") or DEFAULT_APP_ROOT
    entry = os.path.dirname(os.environ.get("AZUREML_ENTRY_SCRIPT", ""))
    return [root, os.path.join(root, entry)]


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
        return module
    except ScriptError:
        raise
    except (ImportError, SyntaxError, NotImplementedError) as error:
        _log.exception("importing the scoring script failed")
        raise ScriptError(page.SCRIPT, f"importing {entry or 'main.py'} raised {describe(error)}") from None
    except BaseException as error:
        _log.exception("importing the scoring script failed")
        raise ScriptError(page.IMPORT, f"importing {entry or 'main.py'} raised {describe(error)}") from None


def _check(run: Callable[..., Any]) -> tuple[str, bool]:
    """Find the parameter that takes the data, and whether run() takes the request's headers."""

    def bad(reason: str) -> ScriptError:
        return ScriptError(page.SCRIPT, reason)

    raw = sys.modules.get("azureml_inference_server_http.api.aml_request")
    if getattr(raw, "_rawHttpRequested", False):
        raise bad("run() is decorated with @rawhttp, which this server does not support yet")
    schema: ModuleType | None = sys.modules.get("inference_schema.schema_util")
    if schema is not None and schema.is_schema_decorated(run):
        raise bad("run() is decorated with @input_schema or @output_schema, which this server does not support yet")
    if inspect.iscoroutinefunction(run):
        raise bad("run() is a coroutine function; it must be a plain function")
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except (TypeError, ValueError):
        raise bad("run() has no signature that can be read; wrap it in a plain function") from None
    for p in parameters:
        if p.kind not in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
            raise bad("run() cannot accept positional-only arguments, *args, or **kwargs")
    wants_headers = any(p.name == "request_headers" for p in parameters)
    data = [p for p in parameters if p.name != "request_headers"]
    if not data:
        raise bad("run() must accept a parameter for the input data")
    more = [p.name for p in data[1:] if p.default is p.empty]
    if more:
        raise bad(f"run() takes more than one input parameter ({', '.join(more)}), which needs @input_schema")
    return data[0].name, wants_headers or data[0].kind is inspect.Parameter.KEYWORD_ONLY


def describe(error: BaseException) -> str:
    """Name an exception in one line: 'ValueError: no such column'."""
    text = " ".join(str(error).split())
    name = type(error).__name__
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
