"""Types of parameters of run(), given by samples: what @input_schema converts JSON to, and how it is described."""

from __future__ import annotations

import base64
import datetime
import importlib
import io
import json
from typing import Any

_ZERO = datetime.timezone.utc
_DATE, _DATETIME, _TIME = "%Y-%m-%d", "%Y-%m-%d %H:%M:%S.%f %z", "%H:%M:%S.%f %z"
_ORIENTS = ("split", "records", "index", "columns", "values", "table")
_UNITS = {
    "years": "Y", "months": "M", "weeks": "W", "days": "D", "hours": "h", "minutes": "m", "seconds": "s",
    "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns", "picoseconds": "ps", "femtoseconds": "fs",
    "attoseconds": "as",
}  # fmt: skip


def _module(name: str) -> Any:
    """numpy or pandas: only scripts that give samples of their types need them."""
    return importlib.import_module(name)


class AbstractParameterType:
    """A type of one parameter. Subclasses say how to convert and how to describe it."""

    def __init__(self, sample_input: Any) -> None:
        self.sample_input = sample_input
        self.sample_data_type = type(sample_input)

    def deserialize_input(self, input_data: Any) -> Any:
        """Make of a JSON value what run() takes; an exception is a failure of the request."""
        raise NotImplementedError

    def input_to_swagger(self) -> dict[str, Any]:
        """The schema of the JSON value, with the sample as its example."""
        raise NotImplementedError

    def supported_versions(self) -> list[str]:
        """OpenAPI versions that can describe the sample: 2.0 has no arrays of mixed types."""
        versions = ["3.0", "3.1"]
        return ["2.0", *versions] if _uniform(self.input_to_swagger()["example"]) else versions


def _uniform(value: Any) -> bool:
    if isinstance(value, list) and value:
        return all(type(one) is type(value[0]) for one in value) and all(_uniform(one) for one in value)
    if isinstance(value, dict):
        return all(_uniform(one) for one in value.values())
    return True


class StandardPythonParameterType(AbstractParameterType):
    """Python's own types; a dict or list may hold samples of other parameter types."""

    def __init__(self, sample_input: Any) -> None:
        super().__init__(sample_input)
        nested = AbstractParameterType
        self.sample_data_type_map: dict[str, AbstractParameterType] = {}
        self.sample_data_type_list: list[AbstractParameterType] = []
        if isinstance(sample_input, dict):
            self.sample_data_type_map = {k: v for k, v in sample_input.items() if isinstance(v, nested)}
        elif isinstance(sample_input, (list, tuple)):
            self.sample_data_type_list = [v for v in sample_input if isinstance(v, nested)]

    def deserialize_input(self, input_data: Any) -> Any:
        """Dates, times and bytes come as text; anything else must have the sample's type already."""
        wanted = self.sample_data_type
        if wanted is datetime.datetime:
            input_data = _moment(input_data)
        elif wanted is datetime.date:
            input_data = datetime.datetime.strptime(input_data, _DATE).date()
        elif wanted is datetime.time:
            input_data = _moment("2000-01-01 " + input_data).timetz()
        elif wanted is bytes or wanted is bytearray:
            input_data = wanted(base64.b64decode(input_data.encode()))
        if wanted is float and type(input_data) is int:
            return input_data
        if not isinstance(input_data, wanted):
            raise _mismatch(wanted, input_data)
        return input_data

    def input_to_swagger(self) -> dict[str, Any]:
        """Schema of the sample; raises for what JSON cannot hold."""
        if self.sample_input is None:
            raise ValueError("Sample input cannot be None")
        schema = describe(self.sample_input)
        json.dumps(schema)  # a TypeError here, at import, is better than one on every look at the document
        return schema


def _moment(text: str) -> datetime.datetime:
    for layout in (_DATETIME, "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S", _DATE):
        try:
            return datetime.datetime.strptime(text, layout)
        except ValueError:
            continue
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)


def _mismatch(wanted: type, got: Any) -> ValueError:
    return ValueError(f"Invalid input data type to parse. Expected: {wanted} but got {type(got)}")


def describe(sample: Any) -> dict[str, Any]:
    """The schema of a value of Python's own types."""
    kind = type(sample)
    if isinstance(sample, AbstractParameterType):
        return sample.input_to_swagger()
    plain = {
        int: {"type": "integer", "format": "int64"}, str: {"type": "string"}, bool: {"type": "boolean"},
        float: {"type": "number", "format": "double"},
    }  # fmt: skip
    if kind in plain:
        return {**plain[kind], "example": sample}
    if kind in (bytes, bytearray):
        return {"type": "string", "format": "byte", "example": base64.b64encode(sample).decode()}
    if kind is datetime.date:
        return {"type": "string", "format": "date", "example": sample.strftime(_DATE)}
    if kind is datetime.datetime:
        zoned = sample if sample.tzinfo else sample.replace(tzinfo=_ZERO)
        return {"type": "string", "format": "date-time", "example": zoned.strftime(_DATETIME)}
    if kind is datetime.time:
        zoned = sample if sample.tzinfo else sample.replace(tzinfo=_ZERO)
        return {"type": "string", "format": "time", "example": zoned.strftime(_TIME)}
    if kind in (list, tuple, range):
        return _describe_list(sample)
    if kind is dict:
        return _describe_dict(sample)
    return {"type": "object", "example": sample}


def _describe_list(sample: Any) -> dict[str, Any]:
    items: dict[str, Any] = {"type": "object"}
    examples = []
    for one in sample:
        items = dict(describe(one))
        examples.append(items.pop("example"))
    return {"type": "array", "items": items, "example": examples}


def _describe_dict(sample: dict[str, Any]) -> dict[str, Any]:
    properties, examples = {}, {}
    for name, one in sample.items():
        schema = dict(describe(one))
        examples[name] = schema.pop("example")
        properties[name] = schema
    return {"type": "object", "required": list(sample), "properties": properties, "example": examples}


class NumpyParameterType(AbstractParameterType):
    """A numpy array. Its first dimension is free; the others and the type are the sample's, where enforced."""

    def __init__(self, sample_input: Any, enforce_column_type: bool = True, enforce_shape: bool = True) -> None:
        numpy = _module("numpy")

        if not isinstance(sample_input, numpy.ndarray):
            raise Exception("Invalid sample input provided, must provide a sample Numpy array.")
        super().__init__(sample_input)
        self.enforce_column_type = enforce_column_type
        self.enforce_shape = enforce_shape

    def deserialize_input(self, input_data: Any) -> Any:
        """Make an array of a list, of the sample's type and shape."""
        numpy = _module("numpy")

        if isinstance(input_data, numpy.ndarray):
            return input_data
        if not isinstance(input_data, list):
            raise ValueError("Invalid input format: expected an array of items.")
        if self.enforce_column_type:
            dtype = self.sample_input.dtype
            if len(dtype) > 0 or dtype.kind in "mM":  # only these are not numpy's own business
                input_data = [_for_dtype(one, dtype) for one in input_data]
            array = numpy.array(input_data, dtype=dtype)
        else:
            array = numpy.array(input_data)
        if self.enforce_shape:
            _same_shape("array", array.shape, self.sample_input.shape)
        return array

    def input_to_swagger(self) -> dict[str, Any]:
        """An array of arrays, as deep as the sample."""
        items = _describe_dtype(self.sample_input.dtype)
        schema = _nest(items, len(self.sample_input.shape))
        schema["example"] = [_example(schema["items"], one) for one in self.sample_input]
        schema["format"] = "numpy.ndarray"
        return schema


def _same_shape(what: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if len(shape) != len(wanted):
        raise ValueError(
            f"Invalid input: an {what} with {len(wanted)} dimensions is expected; "
            f"input has {len(shape)} [shape {shape}]"
        )
    for dim in range(1, len(wanted)):
        if shape[dim] != wanted[dim]:
            raise ValueError(
                f"Invalid input: {what} has size {shape[dim]} on dimension #{dim}, "
                f"while expected value is {wanted[dim]}"
            )


def _for_dtype(value: Any, dtype: Any) -> Any:
    numpy = _module("numpy")

    if len(dtype) > 0:
        by_name = isinstance(value, dict)
        return tuple(_for_dtype(value[n if by_name else i], dtype[i]) for i, n in enumerate(dtype.names))
    if isinstance(value, list):
        return [_for_dtype(one, dtype) for one in value]
    if dtype.kind == "M":
        return numpy.datetime64(value)
    if dtype.kind == "m":
        number, _, unit = value.partition(" ")
        if unit.strip().lower() not in _UNITS:
            raise ValueError(f"Invalid time span {value!r}: it is written as <number> <unit>, for example 3 days")
        return numpy.timedelta64(int(number), _UNITS[unit.strip().lower()])
    return value


def _nest(items: dict[str, Any], depth: int) -> dict[str, Any]:
    schema = {"type": "array", "items": items}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


def _describe_dtype(dtype: Any) -> dict[str, Any]:
    if len(dtype) > 0:
        return {"type": "object", "properties": {name: _describe_dtype(dtype[name]) for name in dtype.names}}
    if dtype.subdtype is not None:
        return _nest(_describe_dtype(dtype.subdtype[0]), len(dtype.subdtype[1]))
    name = dtype.name.lower()
    if dtype.kind in "iu":
        return {"type": "integer", "format": name}
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return {"type": "number", "format": "double" if dtype.itemsize == 8 else "float"}
    fixed = {
        "b": {"type": "boolean"}, "O": {"type": "object"}, "U": {"type": "string"},
        "S": {"type": "string", "format": "binary"}, "V": {"type": "string", "format": "binary"},
        "M": {"type": "string", "format": "date-time"}, "m": {"type": "string", "format": "timedelta"},
    }  # fmt: skip
    if dtype.kind not in fixed:
        raise TypeError(f"We currently do not support extracting schema from data of type {name}")
    return fixed[dtype.kind]


def _example(schema: dict[str, Any], value: Any) -> Any:
    kind, layout = schema["type"], schema.get("format")
    if kind == "array":
        return [_example(schema["items"], one) for one in value]
    if kind == "object":
        if "properties" not in schema:
            return str(value)
        return {name: _example(one, value[name]) for name, one in schema["properties"].items()}
    if kind == "number":
        return float(value)
    if kind == "integer":
        return int(value)
    if layout == "date-time":
        return value.astype(datetime.datetime).strftime("%Y-%m-%d %H:%M:%S,%f")
    if layout == "binary":
        return base64.b64encode(value).decode()
    return str(value)


class PandasParameterType(AbstractParameterType):
    """A pandas data frame, in one of pandas' JSON orients."""

    def __init__(
        self,
        sample_input: Any,
        enforce_column_type: bool = True,
        enforce_shape: bool = True,
        apply_column_names: bool = False,
        orient: str = "records",
    ) -> None:
        pandas = _module("pandas")

        if not isinstance(sample_input, pandas.DataFrame):
            raise Exception("Invalid sample input provided, must provide a sample Pandas Dataframe.")
        if orient not in _ORIENTS:
            raise Exception(f"Invalid orient provided, must be one of {_ORIENTS}")
        super().__init__(sample_input)
        self.enforce_column_type = enforce_column_type
        self.enforce_shape = enforce_shape
        self.apply_column_names = apply_column_names
        self.orient = orient

    def deserialize_input(self, input_data: Any) -> Any:
        """Make a frame of a list or dict, of the sample's column types and width."""
        pandas = _module("pandas")

        if isinstance(input_data, pandas.DataFrame):
            return input_data
        if not isinstance(input_data, (list, dict)):
            raise Exception(f"Error, unable to convert input of type {type(input_data)} into Pandas Dataframe")
        frame = pandas.read_json(io.StringIO(json.dumps(input_data)), orient=self.orient, dtype=False)
        if self.apply_column_names:
            frame.columns = self.sample_input.columns.copy()
        if self.enforce_column_type:
            known = self.sample_input.dtypes.to_dict()
            types = {column: known.get(column, object) for column in frame.columns}
            for column, kind in types.items():
                if str(kind).startswith("timedelta"):
                    frame[column] = pandas.to_timedelta(frame[column])
            frame = frame.astype(types)
        if self.enforce_shape:
            _same_shape("data frame", frame.shape, self.sample_input.shape)
        return frame

    def input_to_swagger(self) -> dict[str, Any]:
        """The schema of the sample as pandas writes it."""
        schema = describe(json.loads(self.sample_input.to_json(orient=self.orient, date_format="iso")))
        for column, kind in self.sample_input.dtypes.items():
            layout = "date-time" if str(kind).startswith("datetime") else "timedelta"
            if str(kind).startswith(("datetime", "timedelta")):
                for described in self._columns(schema, str(column)):
                    described["format"] = layout
        schema["format"] = f"pandas.DataFrame:{self.orient}"
        return schema

    def _columns(self, schema: dict[str, Any], column: str) -> list[dict[str, Any]]:
        """Where the schema describes values of a column. Orients without names have no such place."""
        if self.orient == "records":
            return [schema["items"]["properties"][column]]
        if self.orient == "table":
            return [schema["properties"]["data"]["items"]["properties"][column]]
        if self.orient == "index":
            return [row["properties"][column] for row in schema["properties"].values()]
        if self.orient == "columns":
            return list(schema["properties"][column]["properties"].values())
        return []
