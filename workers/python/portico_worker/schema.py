"""@input_schema and @output_schema: arguments of run() by name, converted to the types of samples, and described."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any, Callable

from .schematypes import AbstractParameterType

_ATTRIBUTE = "__portico_schema__"
ALL_VERSIONS = ["2.0", "3.0", "3.1"]

Run = Callable[..., Any]


class _Schemas:
    """What the decorators of one function say together."""

    def __init__(self, function: Run) -> None:
        self.function = function
        self.input: dict[str, Any] | None = None
        self.output: dict[str, Any] | None = None
        self.versions: dict[str, list[str]] = {}

    def add_input(self, name: str, kind: AbstractParameterType) -> None:
        names = inspect.getfullargspec(self.function).args
        if self.input is None:
            self.input = {"type": "object", "properties": {n: {} for n in names}, "example": dict.fromkeys(names, "")}
        described = copy.deepcopy(kind.input_to_swagger())
        self.input["example"][name] = described.pop("example")
        self.input["properties"][name] = described
        self.versions["input"] = kind.supported_versions()

    def add_output(self, kind: AbstractParameterType) -> None:
        if self.output is not None:
            raise Exception(f"Error, output schema already defined for function: {self.function.__qualname__}.")
        self.output = kind.input_to_swagger()
        self.versions["output"] = kind.supported_versions()


_all: list[_Schemas] = []


def _of(function: Any) -> _Schemas | None:
    while function is not None:
        found = getattr(function, _ATTRIBUTE, None)
        if isinstance(found, _Schemas):
            return found
        function = getattr(function, "__wrapped__", None)
    return None


def _note(function: Run) -> _Schemas:
    schemas = _of(function)
    if schemas is None:
        schemas = _Schemas(inspect.unwrap(function))
        _all.append(schemas)
    return schemas


def _wrapped(function: Run, wrapper: Run, schemas: _Schemas) -> Run:
    functools.update_wrapper(wrapper, function)
    setattr(wrapper, _ATTRIBUTE, schemas)
    return wrapper


def input_schema(
    param_name: str, param_type: AbstractParameterType, convert_to_provided_type: bool = True, optional: bool = False
) -> Callable[[Run], Run]:
    """Give run() the named member of the request's JSON object, converted to the sample's type."""
    if not isinstance(param_type, AbstractParameterType):
        raise Exception("Error, provided param_type must be a subclass of the AbstractParameterType.")

    def decorate(function: Run) -> Run:
        schemas = _note(function)
        schemas.add_input(param_name, param_type)
        names = inspect.getfullargspec(schemas.function).args

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not convert_to_provided_type:
                return function(*args, **kwargs)
            if param_name in kwargs:
                if kwargs[param_name] or not optional:
                    kwargs[param_name] = convert(kwargs[param_name], param_type, param_name)
            elif not optional:
                if param_name not in names:
                    raise Exception(f'Error, provided param_name "{param_name}" is not in the decorated function.')
                place = names.index(param_name)
                args = (*args[:place], convert(args[place], param_type, param_name), *args[place + 1 :])
            return function(*args, **kwargs)

        return _wrapped(function, wrapper, schemas)

    return decorate


def output_schema(output_type: AbstractParameterType) -> Callable[[Run], Run]:
    """Describe what run() returns. Nothing is converted or checked."""
    if not isinstance(output_type, AbstractParameterType):
        raise Exception("Error, provided param_type must be a subclass of the AbstractParameterType.")

    def decorate(function: Run) -> Run:
        schemas = _note(function)
        schemas.add_output(output_type)
        return _wrapped(function, lambda *args, **kwargs: function(*args, **kwargs), schemas)

    return decorate


def convert(value: Any, kind: AbstractParameterType, name: str) -> Any:
    """Convert a JSON value, and what is nested in it."""
    if kind.sample_data_type is dict:
        if not isinstance(value, dict):
            raise _wrong(kind, value)
        for key, nested in getattr(kind, "sample_data_type_map", {}).items():
            if key in value:
                value[key] = convert(value[key], nested, key)
        return value
    if kind.sample_data_type in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise _wrong(kind, value)
        of = getattr(kind, "sample_data_type_list", [])
        return [convert(one, of[0], name) for one in value] if of else value
    return value if isinstance(value, kind.sample_data_type) else kind.deserialize_input(value)


def _wrong(kind: AbstractParameterType, value: Any) -> ValueError:
    return ValueError(f"Invalid input data type to parse. Expected: {kind.sample_data_type} but got {type(value)}")


def is_schema_decorated(function: Any) -> bool:
    """Whether either decorator was applied."""
    return _of(function) is not None


def get_input_schema(function: Any) -> dict[str, Any]:
    """Schema of the request's body."""
    found = _of(function)
    return found.input if found is not None and found.input is not None else {"type": "object"}


def get_output_schema(function: Any) -> dict[str, Any]:
    """Schema of the answer."""
    found = _of(function)
    return found.output if found is not None and found.output is not None else {"type": "object"}


def get_supported_versions(function: Any) -> list[str]:
    """OpenAPI versions that can describe every sample."""
    found = _of(function)
    versions = set(ALL_VERSIONS)
    for some in found.versions.values() if found is not None else ():
        versions &= set(some)
    return sorted(versions)


def get_schemas_dict() -> dict[str, Any]:
    """Every function's schemas by its qualified name."""
    return {
        f"{s.function.__module__}.{s.function.__name__}": copy.deepcopy(
            {k: v for k, v in (("input_schema", s.input), ("output_schema", s.output)) if v is not None}
        )
        for s in _all
    }
