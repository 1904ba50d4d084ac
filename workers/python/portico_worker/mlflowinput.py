"""What callers send to an MLflow model, turned into what pyfunc takes: data frames, arrays, or the value itself.

Two protocols meet here: Azure's, with everything under input_data, and that of MLflow's own scoring server. Types are
cast to the model's signature, because JSON has one kind of number; whether the data meet the signature is left to
MLflow, which enforces it. Only names that MLflow documents are used, since the release is the model's choice.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

SPLIT = {"columns", "index", "data"}
FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
CHAT = ("messages", "prompt", "input")  # members of requests in the form of language-model services
# Flavors whose models take text as it is: Azure passes their input on without making arrays of it.
TEXT_FLAVORS = frozenset((
    "dspy", "haystack", "langchain", "llama_index", "openai", "sentence_transformers", "transformers",
))  # fmt: skip


class Invalid(ValueError):
    """The caller's data cannot be what the model takes. The message is for the caller."""


class Reader:
    """Reads the requests of one model."""

    def __init__(self, schema: Any, flavors: Any, from_type_hint: bool) -> None:
        self._schema = schema  # mlflow.types.Schema of the inputs; None: the model has no signature
        self._textual = bool(TEXT_FLAVORS.intersection(flavors))
        self._as_it_is = from_type_hint  # the model's own type hints say what it takes, and MLflow checks them

    def azure(self, value: Any) -> Any:
        """The value of input_data; raises Invalid."""
        names = set() if self._schema is None else set(self._schema.input_names())
        if not self._as_it_is and _is_split(value) and not set(value) <= names:
            return self._frame(value["data"], value.get("columns"), value.get("index"))
        return self._value(value)

    def mlflow(self, document: dict[str, Any]) -> Any:
        """A request of MLflow's own protocol without its params; raises Invalid."""
        found = [name for name in FORMATS if name in document]
        if len(found) != 1 or len(document) != 1:
            raise Invalid(
                f"The request must be a JSON object with exactly one of {', '.join(FORMATS)}, and optionally params. "
                f"It has: {', '.join(map(str, document)) or 'nothing'}."
            )
        kind, value = found[0], document[found[0]]
        if self._as_it_is:
            if kind != "inputs":
                raise Invalid(f"This model's type hints say what it takes: send it under inputs, not under {kind}.")
            return value
        if kind == "dataframe_split":
            if not isinstance(value, dict) or "data" not in value or not set(value) <= SPLIT:
                raise Invalid("dataframe_split must be an object with data and, optionally, columns and index.")
            return self._frame(value["data"], value.get("columns"), value.get("index"))
        if kind == "dataframe_records":
            if not isinstance(value, list):
                raise Invalid("dataframe_records must be a list of objects.")
            return self._frame(value, None, None)
        if kind == "instances" and isinstance(value, list) and value and isinstance(value[0], dict):
            value = _transposed(value)
        return self._value(value)

    def csv(self, text: str) -> Any:
        """A table with a line of column names; raises Invalid."""
        texts = {} if self._schema is None else {n: str for n, t in self._columns() if _name_of(t) == "string"}
        try:
            frame = pd.read_csv(io.StringIO(text), dtype=texts)
        except Exception as error:
            raise Invalid(f"The body is not a CSV table with a line of column names: {error}") from None
        return self._cast(frame)

    def _value(self, value: Any) -> Any:
        schema = self._schema
        if self._as_it_is:
            return value
        if schema is None:
            return self._without_signature(value)
        if schema.is_tensor_spec():
            return self._tensors(value)
        if isinstance(value, dict):
            types = dict(self._columns())
            return {name: _simple(part, types.get(name), name) for name, part in value.items()}
        if not isinstance(value, list):
            value = [value]
        columns = self._columns()
        if value and isinstance(value[0], (dict, list)):
            return self._frame(value, None, None)
        if len(columns) == 1 and schema.has_input_names():
            return self._frame({columns[0][0]: value}, None, None)
        return self._frame(value, None, None)

    def _without_signature(self, value: Any) -> Any:
        if self._textual or not isinstance(value, (dict, list)):
            return value
        if isinstance(value, dict):
            if not all(isinstance(part, list) for part in value.values()):
                return value
            return {name: _array(part, None, name) for name, part in value.items()}
        if value and isinstance(value[0], dict):
            return value
        return _array(value, None, "input")

    def _tensors(self, value: Any) -> Any:
        schema = self._schema
        named = schema.has_input_names()
        types = dict(zip(schema.input_names(), schema.input_types())) if named else {}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = _transposed(value)
        if isinstance(value, dict):
            return {name: _array(part, types.get(name), name) for name, part in value.items()}
        if named and len(types) == 1:
            name, kind = next(iter(types.items()))
            return {name: _array(value, kind, name)}
        if named:
            raise Invalid(f"The model takes several tensors: send an object with {', '.join(types)}.")
        return _array(value, schema.input_types()[0], "input")

    def _frame(self, data: Any, columns: Any, index: Any) -> Any:
        schema = self._schema
        if columns is None and schema is not None and schema.has_input_names() and not schema.is_tensor_spec():
            names = schema.input_names()
            if isinstance(data, list) and data and all(isinstance(r, list) and len(r) == len(names) for r in data):
                columns = names
        try:
            frame = pd.DataFrame(data=data, columns=columns, index=index)
        except Exception as error:
            raise Invalid(f"The data do not form a table: {error}") from None
        if schema is not None and schema.is_tensor_spec() and not schema.has_input_names():
            return _array(frame.values.tolist(), schema.input_types()[0], "input")
        return self._cast(frame)

    def _columns(self) -> list[tuple[Any, Any]]:
        """Name and type of each column of the signature; the names are positions where it has none."""
        schema = self._schema
        names = schema.input_names() if schema.has_input_names() else range(len(schema.input_types()))
        return list(zip(names, schema.input_types()))

    def _cast(self, frame: Any) -> Any:
        if self._schema is None:
            return frame
        pairs = self._columns()
        if not self._schema.has_input_names():
            pairs = list(zip(frame.columns, (kind for _, kind in pairs)))
        for name, kind in pairs:
            if name in frame.columns:
                frame[name] = _column(frame[name], kind, name)
        return frame


def _is_split(value: Any) -> bool:
    return isinstance(value, dict) and {"columns", "data"} <= set(value) <= SPLIT and isinstance(value["data"], list)


def _transposed(rows: list[Any]) -> dict[str, list[Any]]:
    """Rows of named values as named lists, which must be equally long."""
    out: dict[str, list[Any]] = {}
    for row in rows:
        if not isinstance(row, dict):
            raise Invalid("The list must hold only objects, or none.")
        for name, value in row.items():
            out.setdefault(name, []).append(value)
    if len({len(values) for values in out.values()}) > 1:
        raise Invalid("Every object of the list must have the same members.")
    return out


def _name_of(kind: Any) -> str:
    """The name of a simple type of a column; empty for arrays, objects, maps and tensors."""
    return str(kind.name) if hasattr(kind, "to_pandas") else ""


def _column(series: Any, kind: Any, name: Any) -> Any:
    """A column in the type of the signature where that loses nothing."""
    known = _name_of(kind)
    try:
        if known == "binary":
            return series.map(lambda text: base64.b64decode(text) if isinstance(text, str) else text)
        if known == "datetime":
            return pd.to_datetime(series).astype("datetime64[ns]")
        if known in ("", "string", "boolean"):
            return series  # as they came: "false" as a truth value, or 7 as a text, would hide a mistake
        _must_be_whole(np.asarray(series), kind.to_numpy(), name)
        return series.astype(kind.to_pandas())
    except Invalid:
        raise
    except Exception as error:
        raise Invalid(f"Column {name} cannot be converted to {known}: {error}") from None


def _simple(value: Any, kind: Any, name: Any) -> Any:
    """One member of an object that stands for columns: a list of values, or one."""
    if kind is None or not _name_of(kind):
        return value
    column = _column(pd.Series(value if isinstance(value, list) else [value]), kind, name)
    values = column.to_numpy()
    return values if isinstance(value, list) else values[0]


def _array(value: Any, kind: Any, name: Any) -> Any:
    """A tensor, in the type of the signature where that loses nothing."""
    try:
        array = np.asarray(value)
        if kind is None:
            return array
        wanted = np.dtype(kind)
        if array.dtype.kind in "US" and wanted.kind in "biufc":
            raise Invalid(f"Tensor {name} holds text where the model takes {wanted}.")
        _must_be_whole(array, wanted, name)
        return array.astype(wanted)
    except Invalid:
        raise
    except Exception as error:
        raise Invalid(f"Tensor {name} cannot be converted: {error}") from None


def _must_be_whole(array: Any, wanted: Any, name: Any) -> None:
    """Refuse fractions where the model takes integers, rather than cut them off."""
    if np.dtype(wanted).kind in "iu" and array.dtype.kind == "f" and not np.all(np.mod(array, 1) == 0):
        raise Invalid(f"{name} holds values that are not whole numbers where the model takes {np.dtype(wanted)}.")
