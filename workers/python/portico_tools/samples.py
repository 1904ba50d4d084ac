"""Sample inputs: read from a file, made at random, and brought into the types of a model's inputs."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from .main import Refused

RANDOM_ROWS = 16
SEED = 20
FREE_DIMENSION = 8  # the size of a free dimension that is not the first
MAX_BYTES = 256 << 20  # of a file with samples

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


def load(path: str) -> Any:
    """A JSON file as its value, a .npy file as its array, a .npz file as its arrays by name."""
    if os.path.getsize(path) > MAX_BYTES:
        raise Refused(f"the samples have more than {MAX_BYTES} bytes; a few hundred rows are enough")
    try:
        if path.endswith((".npy", ".npz")):
            found = np.load(path, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
        with open(path, encoding="utf-8") as text:
            value = json.load(text)
    except (OSError, ValueError) as error:
        raise Refused(f"the samples cannot be read: {error}") from None
    if isinstance(value, dict):
        for wrapper in ("input_data", "dataframe_split", "instances", "inputs", "dataframe_records"):
            if wrapper in value:
                return value[wrapper]
    return value


def feeds(session: Any, path: str) -> tuple[dict[str, Any], bool]:
    """What a session is run with: from the file, or at random when there is none."""
    inputs = session.get_inputs()
    unknown = [i.name for i in inputs if i.type not in TYPES]
    if unknown:
        raise Refused(f"the inputs {', '.join(unknown)} are no tensors, which the tools do not take")
    if not path:
        return {i.name: _random(i) for i in inputs}, True
    given = load(path)
    if isinstance(given, dict) and "columns" in given and "data" in given:
        given = {name: [row[n] for row in given["data"]] for n, name in enumerate(given["columns"])}
    if not isinstance(given, dict):
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs)
            raise Refused(f"the model has several inputs: the samples must be an object with {names}")
        given = {inputs[0].name: given}
    missing = [i.name for i in inputs if i.name not in given]
    if missing:
        raise Refused(f"the samples lack the inputs {', '.join(missing)}")
    return {i.name: _typed(i, given[i.name]) for i in inputs}, False


def _typed(wanted: Any, value: Any) -> Any:
    try:
        array: Any = np.asarray(value).astype(TYPES[wanted.type])
    except (TypeError, ValueError) as error:
        raise Refused(f"the samples of input {wanted.name} do not fit {wanted.type}: {error}") from None
    shape = wanted.shape
    if array.ndim == len(shape) - 1 and shape and shape[-1] == 1:
        array = array[..., np.newaxis]  # a column
    if array.ndim != len(shape):
        raise Refused(f"the samples of input {wanted.name} have {array.ndim} dimensions, the model takes {len(shape)}")
    for n, size in enumerate(shape):
        if isinstance(size, int) and array.shape[n] != size:
            raise Refused(f"dimension {n} of the samples of input {wanted.name} is {array.shape[n]}, not {size}")
    return array


def _random(wanted: Any) -> Any:
    kind = TYPES[wanted.type]
    if kind is np.object_:
        raise Refused(f"input {wanted.name} is text, for which nothing sensible can be made up; give --samples")
    shape = [
        size if isinstance(size, int) else RANDOM_ROWS if n == 0 else FREE_DIMENSION
        for n, size in enumerate(wanted.shape)
    ]
    generator = np.random.default_rng(SEED)
    if kind is np.bool_:
        return generator.integers(0, 2, shape).astype(kind)
    if np.issubdtype(kind, np.integer):
        return generator.integers(0, 8, shape).astype(kind)
    return generator.standard_normal(shape).astype(kind)


def rows(feed: dict[str, Any]) -> int:
    """How many samples there are: the first dimension of the first input."""
    first = next(iter(feed.values()))
    return int(first.shape[0]) if first.ndim else 1
