"""The names that scripts import from the reference server's packages, for where those are not installed.

Both generations of names are offered: azureml_inference_server_http.api and azureml.contrib.services, and those of
inference_schema and azureml.ai.monitoring. The finder stands last on sys.meta_path, so that an installed package
always wins.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Callable

_HTTP = "azureml_inference_server_http"
_OLD = "azureml.contrib.services"
_SCHEMA = "inference_schema"
_TYPES = _SCHEMA + ".parameter_types"
_MONITORING = "azureml.ai.monitoring"


def _request() -> dict[str, Any]:
    from . import rawhttp

    return {"AMLRequest": rawhttp.AMLRequest, "rawhttp": rawhttp.rawhttp}


def _response() -> dict[str, Any]:
    from . import responses

    return {"AMLResponse": responses.AMLResponse}


def _log_config() -> dict[str, Any]:
    from . import log

    return {"AMLLogFormatter": log.ReferenceFormatter, "RootAccessFilter": log.HealthFilter}


def _decorators() -> dict[str, Any]:
    from . import schema

    return {"input_schema": schema.input_schema, "output_schema": schema.output_schema}


def _schema_util() -> dict[str, Any]:
    from . import schema

    names = ("get_input_schema", "get_output_schema", "get_supported_versions", "get_schemas_dict")
    return {name: getattr(schema, name) for name in (*names, "is_schema_decorated")}


def _parameter(name: str) -> Callable[[], dict[str, Any]]:
    def contents() -> dict[str, Any]:
        from . import schematypes

        return {name: getattr(schematypes, name)}

    return contents


def _monitoring(*names: str) -> Callable[[], dict[str, Any]]:
    def contents() -> dict[str, Any]:
        from . import monitoring

        return {name: getattr(monitoring, name) for name in names}

    return contents


def _spark() -> dict[str, Any]:
    raise ImportError("SparkParameterType needs the package inference-schema with its extra pyspark-support")


def _same(name: str) -> Callable[[], dict[str, Any]]:
    """What another name holds, whichever package provides it."""
    return lambda: {n: v for n, v in vars(importlib.import_module(name)).items() if not n.startswith("__")}


_PACKAGES = {
    _HTTP, _HTTP + ".api", "azureml", "azureml.contrib", _OLD, _SCHEMA, _TYPES, "azureml.ai", _MONITORING,
    _MONITORING + ".context",
}  # fmt: skip
_CONTEXTS = ("CorrelationContext", "BasicCorrelationContext", "get_context", "get_context_wrapper")
_CONTENTS: dict[str, Callable[[], dict[str, Any]]] = {
    _HTTP + ".api.aml_request": _request,
    _HTTP + ".api.aml_response": _response,
    _HTTP + ".log_config": _log_config,
    _OLD + ".aml_request": _same(_HTTP + ".api.aml_request"),
    _OLD + ".aml_response": _same(_HTTP + ".api.aml_response"),
    _SCHEMA + ".schema_decorators": _decorators,
    _SCHEMA + ".schema_util": _schema_util,
    _TYPES + ".abstract_parameter_type": _parameter("AbstractParameterType"),
    _TYPES + ".numpy_parameter_type": _parameter("NumpyParameterType"),
    _TYPES + ".pandas_parameter_type": _parameter("PandasParameterType"),
    _TYPES + ".standard_py_parameter_type": _parameter("StandardPythonParameterType"),
    _TYPES + ".spark_parameter_type": _spark,
    _MONITORING: _monitoring("Collector"),
    _MONITORING + ".collector": _monitoring("Collector"),
    _MONITORING + ".context": _monitoring(*_CONTEXTS),
    _MONITORING + ".context.context": _monitoring(*_CONTEXTS, "WrapperContext"),
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _PACKAGES and fullname not in _CONTENTS:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname in _PACKAGES)

    def exec_module(self, module: ModuleType) -> None:
        contents = _CONTENTS.get(module.__name__)
        if contents is not None:
            module.__dict__.update(contents())


def offer() -> None:
    """Make the names importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def takes_the_request() -> bool:
    """Whether the script used @rawhttp, of whichever package."""
    from . import rawhttp

    modules = (sys.modules.get(name) for name in (_HTTP + ".api.aml_request", _OLD + ".aml_request"))
    return rawhttp.wanted() or any(getattr(module, "_rawHttpRequested", False) for module in modules)


def schema_module() -> Any:
    """inference_schema.schema_util of whichever package, or None when the script does not use it."""
    return sys.modules.get(_SCHEMA + ".schema_decorators") and importlib.import_module(_SCHEMA + ".schema_util")
