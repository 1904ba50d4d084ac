"""An MLflow model in place of a scoring script: loaded by mlflow.pyfunc, called at the routes of both protocols.

/score is Azure's (input_data, answered by the bare predictions), /invocations MLflow's own (answered by an object with
predictions). mlflow, numpy and pandas are those of the model's environment and are imported when the model is loaded.
"""

from __future__ import annotations

import base64
import datetime
import importlib
import inspect
import json
import logging
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Callable

from . import mlflowschema, openapi, page, responses, script, settings
from .http1 import Refused, Request
from .log import LOGGER
from .rawhttp import is_json

if TYPE_CHECKING:
    from . import joint as joints

# A request on its way: it reads the input, asks for the predictions (data, params) and makes an answer of them. Between
# the two steps the rows of several requests may meet.
Steps = Generator[tuple[Any, Any], Any, Any]

MESSAGE_MAX = 2000  # characters of what MLflow says about a caller's data
_ROUTES = {b"/score": (b"GET", b"POST"), b"/invocations": (b"POST",), b"/ping": (b"GET",), b"/health": (b"GET",),
           b"/version": (b"GET",)}  # fmt: skip
_FIELDS = [
    inspect.Parameter("input_data", inspect.Parameter.POSITIONAL_OR_KEYWORD),
    inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None),
]
# Settings of MLflow that suit an instance, where the deployment says nothing else: a model that serves reports to
# nobody, and what it may log goes to the scratch directory, the working directory.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}

_log = logging.getLogger(LOGGER)


class Model:
    """An MLflow model as a script.Scorer."""

    routes = frozenset(_ROUTES)
    any_method = False
    joint: joints.Joint | None = None

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._version = ""
        self._collected: Any = None

    def init(self) -> None:
        """Load the model; raises ScriptError where the environment lacks what that needs."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            self._load()
        except ModuleNotFoundError as error:
            _log.exception("the model cannot be loaded")
            reason = (
                f"loading the model raised {script.describe(error)}: the environment (of `portico infer` the "
                "interpreter that --python names) must have mlflow and the packages in the model's requirements.txt"
            )
            raise settings.ScriptError(page.SCRIPT, reason) from None

    def _load(self) -> None:
        pyfunc = importlib.import_module("mlflow.pyfunc")
        mlflow = importlib.import_module("mlflow")
        from . import mlflowinput

        self._input: Any = mlflowinput
        self._failure: Any = mlflow.exceptions.MlflowException
        self._version = str(mlflow.__version__)
        self._model = pyfunc.load_model(self._folder)
        self._takes_params = "params" in inspect.signature(self._model.predict).parameters
        metadata = self._model.metadata
        schema = metadata.get_input_schema()
        hinted = bool(metadata.to_dict().get("is_signature_from_type_hint"))
        self._reader = mlflowinput.Reader(schema, metadata.flavors, hinted)
        named = getattr(metadata, "get_params_schema", lambda: None)()
        self._params = {spec.name for spec in named.params} if named is not None else set()
        if settings.batching():
            from . import mlflowbatch

            self.joint = mlflowbatch.Batch(self)
        if os.environ.get("PORTICO_DATA_COLLECTOR"):
            from .mlflowcollect import Pair

            self._collected = Pair()
        _log.info("MLflow %s has loaded the model; flavors: %s", self._version, ", ".join(sorted(metadata.flavors)))
        if schema is None:
            _log.warning("the model has no signature: its input is not checked. Save it with one (infer_signature)")

    def documents(self) -> openapi.Documents:
        """What /swagger.json tells, made of the signature and the input example."""
        taken, given = mlflowschema.describe(self._model.metadata.signature, self._folder)
        return openapi.Documents(None, (taken, given))

    def bind(self, request: Request) -> Callable[[], Any]:
        """Convert the input; see script.Scorer.bind."""
        steps = self.steps(request)
        return lambda: self._walk(steps)

    def steps(self, request: Request) -> Steps:
        """The steps of a request; raises Refused for input that is not scored."""
        path = request.path
        if request.method not in _ROUTES[path]:
            raise Refused(405, "The method is not allowed for the requested URL.")
        if path == b"/score":
            values = script.named_data(request, _FIELDS)
            return self._score(request, values["input_data"], values["params"])
        if path == b"/invocations":
            return self._invoke(request)
        return _told(self._version if path == b"/version" else "\n")

    def _walk(self, steps: Steps) -> Any:
        """Take a request through its steps, alone."""
        try:
            data, params = next(steps)
        except StopIteration as done:
            return done.value
        try:
            predictions = self.predict(data, params)
        except Exception as error:
            return _goes_on(steps.throw, error)
        return _goes_on(steps.send, predictions)

    def settle(self, steps: Steps, predictions: Any, failure: Exception | None = None) -> Any:
        """The end of a request that has its predictions, or their failure: its answer, or what it raises."""
        try:
            return _goes_on(steps.send, predictions) if failure is None else _goes_on(steps.throw, failure)
        except Exception as error:
            return error

    def _score(self, request: Request, value: Any, params: Any) -> Steps:
        try:
            return _answer(encode((yield from self._ask(request, self._reader.azure(value), params))))
        except self._input.Invalid as error:
            _log.warning("the input was refused: %s", error)
            return _answer(json.dumps({"message": str(error)}).encode(), 400)

    def _invoke(self, request: Request) -> Steps:
        try:
            return (yield from self._invocation(request))
        except self._input.Invalid as error:
            _log.warning("the input was refused: %s", error)
            return _failed(400, "BAD_REQUEST", str(error))
        except Exception as error:
            # MLflow's own server does not tell a bad input from a bad model either; the traceback stays here.
            _log.error("the model raised %s", type(error).__name__, exc_info=error)
            text = "The model failed on this input. See the log for the reason."
            return _failed(400, "BAD_REQUEST", text, run_function_failed=True)

    def _invocation(self, request: Request) -> Steps:
        given = request.fields.get(b"content-type", b"").decode("latin-1")
        kind, _, rest = given.partition(";")
        kind, rest = kind.strip().lower(), rest.strip().lower().replace('"', "")
        if rest not in ("", "charset=utf-8") or not (kind == "text/csv" or is_json(kind)):
            text = f"The content type must be application/json or text/csv, in UTF-8, not {given or 'absent'}."
            return _answer(text.encode(), 415, "text/plain; charset=utf-8")
        try:
            text = request.body.decode()
        except UnicodeDecodeError as error:
            raise self._input.Invalid(f"The body is not UTF-8: {error}") from None
        if kind == "text/csv":
            return _wrapped((yield from self._ask(request, self._reader.csv(text), None)))
        document = self._document(text)
        chat = any(name in document for name in self._input.CHAT)
        if chat and not any(name in document for name in self._input.FORMATS):
            params = {name: document.pop(name) for name in self._params if name in document}
            return _answer(encode((yield from self._ask(request, document, params or None))))
        params = document.pop("params", None)
        return _wrapped((yield from self._ask(request, self._reader.mlflow(document), params)))

    def _document(self, text: str) -> dict[str, Any]:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._input.Invalid(f"The body is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise self._input.Invalid("The body must be a JSON object.")
        return document

    def predict(self, data: Any, params: Any) -> Any:
        """Call the model, which enforces its signature; raises Invalid for data that do not meet it."""
        if params is not None and not isinstance(params, dict):
            raise self._input.Invalid("params must be a JSON object.")
        if params and not self._takes_params:
            raise self._input.Invalid(f"params need MLflow 2.6 or newer; this model's environment has {self._version}.")
        try:
            return self._model.predict(data, params=params) if params else self._model.predict(data)
        except self._failure as error:
            text = str(error)
            if not 400 <= error.get_http_status_code() < 500 and "enforce schema" not in text:
                raise
            _, found, reason = text.rpartition("'. Error: ")  # before it stand the caller's own data
            message = f"The data do not meet the model's signature: {reason}" if found else text
            raise self._input.Invalid(message[:MESSAGE_MAX]) from None

    def _ask(self, request: Request, data: Any, params: Any) -> Steps:
        """The one question of a request, whose data and predictions may be collected."""
        predictions = yield data, params
        if self._collected is not None:
            self._collected.collect(data, predictions, request.fields.get(b"x-request-id", b"").decode("latin-1"))
        return predictions


def _goes_on(step: Callable[[Any], Any], value: Any) -> Any:
    """The answer of a request that gets value for its question."""
    try:
        step(value)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a request asks the model once")


def _told(text: str) -> Steps:
    """A request that asks nothing of the model."""
    return _answer(text.encode())
    yield None, None


def encode(predictions: Any) -> bytes:
    """Predictions as JSON, in the form in which MLflow's own server writes them."""
    return json.dumps(_plain(predictions), default=_default).encode()


def _wrapped(predictions: Any) -> Any:
    return _answer(b'{"predictions": %b}' % encode(predictions))


def _answer(body: bytes, status: int = 200, kind: str = "application/json") -> Any:
    return responses.AMLResponse(body, status, {"Content-Type": kind})


def _failed(status: int, code: str, message: str, run_function_failed: bool = False) -> Any:
    body = json.dumps({"error_code": code, "message": message}).encode()
    fields = {"Content-Type": "application/json"}
    return responses.AMLResponse(body, status, fields, run_function_failed=run_function_failed)


def _plain(value: Any) -> Any:
    """Tables become lists of records, a column a list of records of one member, arrays become lists."""
    if hasattr(value, "to_frame") and hasattr(value, "to_dict"):  # a pandas Series
        value = value.to_frame()
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a pandas DataFrame
        return value.to_dict(orient="records")
    return value


def _default(value: Any) -> Any:
    """What json cannot write: numpy's and pandas' values, times, bytes, pydantic's models."""
    if isinstance(value, (bytes, bytearray)):
        return base64.encodebytes(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):  # datetime and pandas' Timestamp among them
        return value.isoformat()
    plain = _plain(value)
    if plain is not value:
        return plain
    if type(value).__name__ == "datetime64":
        return str(value)
    for name in ("tolist", "model_dump"):
        if hasattr(value, name):
            return getattr(value, name)()
    raise TypeError(f"the model returned {type(value).__name__}, which has no form in JSON")
