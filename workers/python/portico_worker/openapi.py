"""The documents at /swagger.json: the user's own files, else made of the schemas of run()."""

from __future__ import annotations

import json
import logging
import os
import urllib.parse
from typing import Any

from . import compat, page, settings
from .http1 import Refused
from .log import LOGGER

_log = logging.getLogger(LOGGER + ".swagger")

# Each version with its aliases, and the files in the code's root that stand in for what would be generated.
_VERSIONS = {
    "2": (("2", "2.0"), ("swagger.json", "swagger2.json")),
    "3": (("3", "3.0"), ("swagger3.json",)),
    "3.1": (("3.1",), ("swagger3.1.json",)),
}
_UNDECORATED = {"type": "object", "example": {}}
_HEALTHY = "The service is up. The body of the answer is 'Healthy'."
_FAILED = "The service could not do what was asked."


class Documents:
    """The documents of one script, made when they are first asked for."""

    def __init__(self, run: Any, known: tuple[dict[str, Any], dict[str, Any]] | None = None) -> None:
        """known are the schemas of what is taken and given where run() is not what they come from."""
        self._known = known or (_UNDECORATED, _UNDECORATED)
        schemas = compat.schema_module() if known is None else None
        self._schemas = schemas if schemas is not None and schemas.is_schema_decorated(run) else None
        self._run = run
        self._bodies: dict[str, bytes] = {}
        self._own = {version: _read(names) for version, (_, names) in _VERSIONS.items()}
        able = self._schemas.get_supported_versions(run) if self._schemas is not None else ["2.0", "3.0", "3.1"]
        self._supported = [
            version
            for version, (aliases, _) in _VERSIONS.items()
            if self._own[version] is not None or any(alias in able for alias in aliases)
        ]

    def get(self, query: bytes) -> bytes:
        """The document that the query asks for; raises Refused."""
        asked = urllib.parse.parse_qs(query.decode("ascii"), keep_blank_values=True).get("version", ["2"])[0]
        version = next((v for v, (aliases, _) in _VERSIONS.items() if asked in aliases), None)
        supported = ", ".join(self._supported)
        if version is None:
            raise Refused(404, f"Swagger version [{asked}] is not valid. Supported versions: [{supported}].")
        if version not in self._supported:
            raise Refused(
                404,
                f"Swagger version [{asked}] is not supported for the scoring script. "
                f"Supported swagger versions: [{supported}].",
            )
        if version not in self._bodies:
            own = self._own[version]
            self._bodies[version] = json.dumps(self._generate(version) if own is None else own).encode()
        return self._bodies[version]

    def _generate(self, version: str) -> dict[str, Any]:
        taken, given = self._known
        if self._schemas is not None:
            taken, given = self._schemas.get_input_schema(self._run), self._schemas.get_output_schema(self._run)
        name = os.environ.get("SERVICE_NAME") or "ML service"
        prefix = os.environ.get("SERVICE_PATH_PREFIX", "").strip("/")
        info = {
            "title": name,
            "description": f"API specification for the Azure Machine Learning service {name}",
            "version": os.environ.get("SERVICE_VERSION") or "1.0",
        }
        make = _version_2 if version == "2" else _version_3
        document = make(info, f"/{prefix}" if prefix else "", taken, given)
        if version == "3.1":
            document["openapi"] = "3.1.0"
        return document


def _read(names: tuple[str, ...]) -> Any:
    for name in names:
        path = os.path.join(settings.app_root(), name)
        if not os.path.isfile(path):
            continue
        try:
            with open(path, encoding="utf-8") as file:
                document = json.load(file)
        except (OSError, ValueError) as error:
            reason = f"the file {name} in the code folder cannot be read: {error}"
            raise settings.ScriptError(page.SCRIPT, reason) from None
        if document:
            _log.info("%s stands in for the generated document", path)
            return document
    return None


def _error_schema() -> dict[str, Any]:
    return {"type": "object", "properties": {"message": {"type": "string"}}}


def _bearer() -> dict[str, Any]:
    return {"type": "apiKey", "name": "Authorization", "in": "header", "description": "For example: Bearer abc123"}


def _operation(name: str, description: str, good: dict[str, Any], bad: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "description": description, "responses": {"200": good, "default": bad}}


def _version_2(info: dict[str, Any], prefix: str, taken: Any, given: Any) -> dict[str, Any]:
    def answers(description: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"description": description, "schema": schema}

    def to(name: str) -> dict[str, str]:
        return {"$ref": "#/definitions/" + name}

    bad = answers(_FAILED, to("ErrorResponse"))
    healthy = {**answers(_HEALTHY, {"type": "string"}), "examples": {"application/json": "Healthy"}}
    score = _operation(
        "RunMLService", "Run the model on the input.", answers("The prediction.", to("ServiceOutput")), bad
    )
    score["security"] = [{"Bearer": []}]
    score["parameters"] = [{
        "name": "serviceInputPayload", "in": "body", "description": "What the model is run on.",
        "schema": to("ServiceInput"),
    }]  # fmt: skip
    document = _operation("GetSwaggerSpec", "Describe the service.", answers("This document.", {"type": "string"}), bad)
    document["parameters"] = [
        {"name": "version", "in": "query", "required": False, "type": "string", "enum": ["2", "3", "3.1"]}
    ]
    return {
        "swagger": "2.0",
        "info": info,
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {"Bearer": _bearer()},
        "paths": {
            prefix + "/": {"get": _operation("ServiceHealthCheck", "Look whether the service is up.", healthy, bad)},
            prefix + "/score": {"post": score},
            prefix + "/swagger.json": {"get": document},
        },
        "definitions": {"ServiceInput": taken, "ServiceOutput": given, "ErrorResponse": _error_schema()},
    }


def _version_3(info: dict[str, Any], prefix: str, taken: Any, given: Any) -> dict[str, Any]:
    def answers(description: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
        return {"description": description, "content": {kind: {"schema": schema}}}

    def to(name: str) -> dict[str, str]:
        return {"$ref": "#/components/schemas/" + name}

    bad = answers(_FAILED, to("ErrorResponse"))
    healthy = answers(_HEALTHY, {"type": "string", "example": "Healthy"}, "text/plain")
    score = _operation(
        "RunMLService", "Run the model on the input.", answers("The prediction.", to("ServiceOutput")), bad
    )
    score["security"] = [{"Bearer": []}]
    score["requestBody"] = answers("What the model is run on.", to("ServiceInput"))
    document = _operation("GetSwaggerSpec", "Describe the service.", answers("This document.", {"type": "object"}), bad)
    document["parameters"] = [{
        "name": "version", "in": "query", "required": False, "schema": {"type": "string", "enum": ["2", "3", "3.1"]},
    }]  # fmt: skip
    return {
        "openapi": "3.0.3",
        "info": info,
        "security": [{"Bearer": []}],
        "paths": {
            prefix + "/": {"get": _operation("ServiceHealthCheck", "Look whether the service is up.", healthy, bad)},
            prefix + "/score": {"post": score},
            prefix + "/swagger.json": {"get": document},
        },
        "components": {
            "schemas": {"ServiceInput": taken, "ServiceOutput": given, "ErrorResponse": _error_schema()},
            "securitySchemes": {"Bearer": _bearer()},
        },
    }
