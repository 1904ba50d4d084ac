"""What an MLflow model takes and gives, as JSON schemas for the service's description."""

from __future__ import annotations

import json
import os
from typing import Any

EXAMPLE_MAX = 64 << 10  # bytes of an example that is shown

_TYPES: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "format": "byte"},
    "datetime": {"type": "string", "format": "date-time"},
}


def describe(signature: Any, folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of a request to /score and of its answer."""
    taken: dict[str, Any] = {"type": "object", "required": ["input_data"], "properties": {"input_data": {}}}
    given: dict[str, Any] = {"type": "array", "items": {}}
    if signature is not None and signature.inputs is not None:
        taken["properties"]["input_data"] = _input(signature.inputs)
    params = getattr(signature, "params", None)
    if params is not None:
        taken["properties"]["params"] = {
            "type": "object",
            "properties": {spec.name: _param(spec) for spec in params.params},
        }
    if signature is not None and signature.outputs is not None:
        given = _output(signature.outputs)
    example = _example(folder)
    if example is not None:
        taken["example"] = {"input_data": example}
    return taken, given


def _input(schema: Any) -> dict[str, Any]:
    if schema.is_tensor_spec():
        if not schema.has_input_names():
            return _tensor(schema.inputs[0])
        return {"type": "object", "properties": {spec.name: _tensor(spec) for spec in schema.inputs}}
    names = [str(name) for name in schema.input_names()] or [str(i) for i in range(len(schema.inputs))]
    row: dict[str, Any] = {"type": "array", "items": {}, "description": "One value for each column."}
    kinds = [_column(kind) for kind in schema.input_types()]
    if all(kind == kinds[0] for kind in kinds):
        row["items"] = kinds[0]
    else:
        row["description"] = "One value for each column: " + ", ".join(
            f"{name} {kind.get('format', kind.get('type', 'any'))}" for name, kind in zip(names, kinds)
        )
    return {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}, "example": names},
            "index": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": row},
        },
    }


def _output(schema: Any) -> dict[str, Any]:
    if schema.is_tensor_spec():
        return _tensor(schema.inputs[0]) if not schema.has_input_names() else {"type": "object"}
    kinds = [_column(kind) for kind in schema.input_types()]
    if not schema.has_input_names():
        return {"type": "array", "items": kinds[0] if len(kinds) == 1 else {}}
    members = dict(zip([str(name) for name in schema.input_names()], kinds))
    return {"type": "array", "items": {"type": "object", "properties": members}}


def _column(kind: Any) -> dict[str, Any]:
    return _TYPES.get(str(getattr(kind, "name", "")), {})


def _tensor(spec: Any) -> dict[str, Any]:
    item: dict[str, Any] = {"b": {"type": "boolean"}, "i": {"type": "integer"}, "u": {"type": "integer"},
                            "f": {"type": "number"}}.get(spec.type.kind, {})  # fmt: skip
    for size in reversed(spec.shape):
        item = {"type": "array", "items": item}
        if size >= 0:
            item["minItems"] = item["maxItems"] = int(size)
    return item


def _param(spec: Any) -> dict[str, Any]:
    kind = _column(getattr(spec, "dtype", None))
    return {"type": "array", "items": kind} if getattr(spec, "shape", None) else kind


def _example(folder: str) -> Any:
    """The example that was saved for serving, as the value of input_data; None without one."""
    path = os.path.join(folder, "serving_input_example.json")
    try:
        if os.path.getsize(path) > EXAMPLE_MAX:
            return None
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    for name in ("dataframe_split", "inputs", "instances"):
        if name in document:
            value = document[name]
            if name == "dataframe_split" and isinstance(value, dict) and isinstance(value.get("data"), list):
                value.setdefault("index", list(range(len(value["data"]))))
            return value
    return None
