"""MLflow models: what requests become, and a real worker that serves real models."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from conftest import Worker
from mlflow.models import infer_signature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from portico_worker.mlflowcollect import _table
from portico_worker.mlflowinput import Invalid, Reader
from portico_worker.mlflowmodel import encode
from portico_worker.mlflowschema import describe
from test_monitoring import Sink

LOAD_S = 180.0  # for importing MLflow on a slow machine

PAIR = Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.long, "b")])
ONE = Schema([ColSpec(DataType.string, "text")])
UNNAMED = Schema([ColSpec(DataType.double), ColSpec(DataType.double)])
IMAGE = Schema([TensorSpec(np.dtype("float32"), (-1, 2))])
NAMED = Schema([TensorSpec(np.dtype("int64"), (-1,), "x"), TensorSpec(np.dtype("float32"), (-1, 2), "y")])
SPLIT = {"columns": ["a", "b"], "index": [5, 6], "data": [[1, 2], [3, 4.0]]}


def table(index: Any = None, **columns: Any) -> Any:
    return pd.DataFrame(columns, index=index)


def array(kind: str, value: Any) -> Any:
    return np.array(value, dtype=kind)


def same(got: Any, want: Any) -> bool:
    """Equal in value and in type."""
    if isinstance(want, pd.DataFrame):
        return isinstance(got, pd.DataFrame) and got.equals(want) and list(got.dtypes) == list(want.dtypes)
    if isinstance(want, np.ndarray):
        return isinstance(got, np.ndarray) and got.dtype == want.dtype and np.array_equal(got, want)
    if isinstance(want, dict):
        return isinstance(got, dict) and got.keys() == want.keys() and all(same(got[k], want[k]) for k in want)
    return type(got) is type(want) and bool(got == want)


@pytest.mark.parametrize(("schema", "value", "want"), [
    (PAIR, SPLIT, table([5, 6], a=array("float64", [1, 3]), b=array("int64", [2, 4]))),
    (PAIR, {"columns": ["b", "a"], "data": [[2, 1]]}, table(b=array("int64", [2]), a=array("float64", [1]))),
    (PAIR, [[1, 2]], table(a=array("float64", [1]), b=array("int64", [2]))),
    (PAIR, [{"a": 1, "b": 2}], table(a=array("float64", [1]), b=array("int64", [2]))),
    (PAIR, {"a": [1], "b": [2]}, {"a": array("float64", [1]), "b": array("int64", [2])}),
    (PAIR, {"a": 1, "b": 2}, {"a": np.float64(1), "b": np.int64(2)}),
    (ONE, "hello", table(text=["hello"])),
    (ONE, ["a", "b"], table(text=["a", "b"])),
    (UNNAMED, [[1, 2]], pd.DataFrame([[1.0, 2.0]])),
    (IMAGE, [[1, 2], [3, 4]], array("float32", [[1, 2], [3, 4]])),
    (IMAGE, SPLIT, array("float32", [[1, 2], [3, 4]])),
    (NAMED, {"x": [1.0], "y": [[1, 2]]}, {"x": array("int64", [1]), "y": array("float32", [[1, 2]])}),
    (NAMED, [{"x": 1, "y": [1, 2]}], {"x": array("int64", [1]), "y": array("float32", [[1, 2]])}),
    (None, SPLIT, table([5, 6], a=array("float64", [1, 3]), b=array("float64", [2, 4])).astype({"a": "int64"})),
    (None, [[1, 2]], array("int64", [[1, 2]])),
    (None, {"x": [1], "y": [[2.5]]}, {"x": array("int64", [1]), "y": array("float64", [[2.5]])}),
    (None, "hello", "hello"),
    (None, [{"role": "user"}], [{"role": "user"}]),
    (None, {"question": "why", "context": "so"}, {"question": "why", "context": "so"}),
])  # fmt: skip
def test_azure(schema: Any, value: Any, want: Any) -> None:
    got = Reader(schema, {"python_function": {}}, False).azure(value)
    assert same(got, want), f"{got!r}, want {want!r}"


@pytest.mark.parametrize("value", ["hello", ["a", "b"], [{"role": "user"}], {"q": "why"}, {"q": ["why"]}])
def test_text_models_get_what_was_sent(value: Any) -> None:
    assert Reader(None, {"transformers": {}}, False).azure(value) == value
    assert Reader(ONE, {"python_function": {}}, True).azure(value) == value


@pytest.mark.parametrize(("schema", "value", "want"), [
    (PAIR, {"columns": ["a", "b"], "data": [[1, 2.5]]}, "b holds values that are not whole"),
    (PAIR, {"columns": ["a", "b"], "data": [["x", 2]]}, "Column a cannot be converted to double"),
    (PAIR, {"columns": ["a", "b"], "data": [[1]]}, "do not form a table"),
    (IMAGE, [[1, 2], [3]], "Tensor input cannot be converted"),
    (IMAGE, [["x", "y"]], "holds text where the model takes float32"),
    (NAMED, {"x": [1.5]}, "x holds values that are not whole"),
    (NAMED, [[1]], "several tensors"),
    (NAMED, [{"x": 1}, {"y": 1}, {"x": 2}], "the same members"),
    (NAMED, [{"x": 1}, 2], "only objects"),
    (None, [[1, 2], [3]], "cannot be converted"),
])  # fmt: skip
def test_azure_refuses(schema: Any, value: Any, want: str) -> None:
    with pytest.raises(Invalid, match=want):
        Reader(schema, {}, False).azure(value)


@pytest.mark.parametrize(("schema", "document", "want"), [
    (PAIR, {"dataframe_split": SPLIT}, table([5, 6], a=array("float64", [1, 3]), b=array("int64", [2, 4]))),
    (PAIR, {"dataframe_records": [{"a": 1, "b": 2}]}, table(a=array("float64", [1]), b=array("int64", [2]))),
    (NAMED, {"instances": [{"x": 1, "y": [1, 2]}]}, {"x": array("int64", [1]), "y": array("float32", [[1, 2]])}),
    (PAIR, {"instances": [{"a": 1, "b": 2}]}, {"a": array("float64", [1]), "b": array("int64", [2])}),
    (IMAGE, {"inputs": [[1, 2]]}, array("float32", [[1, 2]])),
])  # fmt: skip
def test_mlflow(schema: Any, document: Any, want: Any) -> None:
    got = Reader(schema, {}, False).mlflow(document)
    assert same(got, want), f"{got!r}, want {want!r}"


@pytest.mark.parametrize("document", [
    {}, {"data": 1}, {"inputs": [1], "instances": [1]}, {"inputs": [1], "more": 1}, {"dataframe_records": {"a": 1}},
    {"dataframe_split": [1]}, {"dataframe_split": {"columns": ["a"]}}, {"dataframe_split": {**SPLIT, "more": 1}},
])  # fmt: skip
def test_mlflow_refuses(document: Any) -> None:
    with pytest.raises(Invalid):
        Reader(PAIR, {}, False).mlflow(document)


def test_csv() -> None:
    schema = Schema([ColSpec(DataType.string, "id"), ColSpec(DataType.double, "v"), ColSpec(DataType.datetime, "at")])
    got = Reader(schema, {}, False).csv("id,v,at\n007,1,2026-01-02\n")
    assert got["id"][0] == "007" and got["v"].dtype == "float64" and got["at"].dtype == "datetime64[ns]"
    with pytest.raises(Invalid, match="CSV"):
        Reader(schema, {}, False).csv("")


def test_binary_columns_are_base64() -> None:
    schema = Schema([ColSpec(DataType.binary, "b")])
    assert Reader(schema, {}, False).azure([{"b": "aGk="}])["b"][0] == b"hi"
    with pytest.raises(Invalid, match="binary"):
        Reader(schema, {}, False).azure([{"b": "a"}])


@pytest.mark.parametrize(("value", "want"), [
    (np.array([[1, 2]]), "[[1, 2]]"),
    (pd.DataFrame({"a": [1], "b": ["x"]}), '[{"a": 1, "b": "x"}]'),
    (pd.Series([1.5], name="p"), '[{"p": 1.5}]'),
    ({"x": np.float32(0.5), "y": np.array([True])}, '{"x": 0.5, "y": [true]}'),
    ([datetime.datetime(2026, 1, 2), pd.Timestamp("2026-01-02")], '["2026-01-02T00:00:00", "2026-01-02T00:00:00"]'),
    ({"b": b"hi"}, '{"b": "aGk=\\n"}'),
    ("text", '"text"'),
])  # fmt: skip
def test_answers(value: Any, want: str) -> None:
    assert encode(value).decode() == want


def test_description(tmp_path: Path) -> None:
    signature = infer_signature(table(a=[1.0], b=[2]), np.array([1]), params={"factor": 2.0, "stop": ["x"]})
    (tmp_path / "serving_input_example.json").write_text('{"dataframe_split": {"columns": ["a"], "data": [[1]]}}')
    taken, given = describe(signature, str(tmp_path))
    assert taken["properties"]["input_data"]["properties"]["columns"]["example"] == ["a", "b"]
    assert taken["properties"]["params"]["properties"]["factor"]["type"] == "number"
    assert taken["properties"]["params"]["properties"]["stop"]["type"] == "array"
    assert taken["example"] == {"input_data": {"columns": ["a"], "data": [[1]], "index": [0]}}
    assert given == {"type": "array", "items": {"type": "integer"}}
    assert describe(None, str(tmp_path / "absent"))[0]["properties"] == {"input_data": {}}


class Times(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Sums rows, times a parameter. It fails on the sum 13."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        total = model_input.sum(axis=1)
        if (total == 13).any():
            raise RuntimeError("unlucky secret")
        return (total * params["factor"]).to_numpy()


@pytest.fixture(scope="module")
def times(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "times"
    rows = table(a=[1.0], b=[2.0])
    signature = infer_signature(rows, np.array([1.0]), params={"factor": 1.0})
    # By value: the worker knows no module of the tests.
    import cloudpickle
    import test_mlflow

    cloudpickle.register_pickle_by_value(test_mlflow)
    mlflow.pyfunc.save_model(str(path), python_model=Times(), signature=signature, pip_requirements=["mlflow-skinny"])
    return path


def loaded(worker: Worker) -> Worker:
    end = time.monotonic() + LOAD_S
    while worker.state < 2 and worker.process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return worker.ready()


JSON = {"content_type": "application/json"}


def test_worker(start: Any, times: Path) -> None:
    w = loaded(start(None, PORTICO_MLFLOW_MODEL=str(times)))
    two = {"columns": ["a", "b"], "index": [0, 1], "data": [[1, 2], [3, 4]]}

    def ask(path: str, body: Any, **fields: str) -> tuple[int, Any]:
        answer = w.ask("POST", path, json.dumps(body), **(fields or JSON))
        return answer.status, json.loads(answer.body)

    assert ask("/score", {"input_data": two}) == (200, [3.0, 7.0])
    assert ask("/score", {"input_data": two, "params": {"factor": 10.0}}) == (200, [30.0, 70.0])
    assert ask("/invocations", {"dataframe_split": two}) == (200, {"predictions": [3.0, 7.0]})
    assert ask("/invocations", {"inputs": {"a": [1], "b": [2]}, "params": {"factor": 2.0}}) == (
        200, {"predictions": [6.0]})  # fmt: skip
    answer = w.ask("POST", "/invocations", "b,a\n1,2\n", content_type="text/csv; charset=utf-8")
    assert (answer.status, answer.text) == (200, '{"predictions": [3.0]}')

    for path, body, want in (
        ("/score", {"input_data": {"columns": ["a"], "data": [[1]]}}, "missing inputs"),
        ("/score", {"data": 1}, "'input_data'"),
        ("/score", {"input_data": two, "params": [1]}, "params must be"),
        ("/score", {"input_data": two, "params": {"factor": "x"}}, "factor"),
        ("/invocations", {"input_data": two}, "exactly one"),
        ("/invocations", [1], "JSON object"),
    ):
        status, document = ask(path, body)
        assert status == 400 and want in document["message"], (path, body, status, document)
        assert ("error_code" in document) == (path == "/invocations")

    # What the model raises: Azure's server says 500, MLflow's 400; neither tells the text to the caller.
    bad = {"columns": ["a", "b"], "data": [[6, 7]]}
    for path, name, status in (("/score", "input_data", 500), ("/invocations", "dataframe_split", 400)):
        answer = w.ask("POST", path, json.dumps({name: bad}), **JSON)
        assert answer.status == status and "secret" not in answer.text
        assert answer.headers["x-ms-run-function-failed"] == "True"
    assert "RuntimeError: unlucky secret" in w.log

    for method, path, body, fields, status in (
        ("POST", "/invocations", "x", {"content_type": "text/plain"}, 415),
        ("POST", "/invocations", "{}", {}, 415),
        ("POST", "/invocations", "a\n", {"content_type": "text/csv; header=present"}, 415),
        ("POST", "/invocations", "{", JSON, 400),
        ("POST", "/invocations", b"\xff", JSON, 400),
        ("POST", "/score", "{}", {"content_type": "text/plain"}, 415),
        ("GET", "/invocations", None, {}, 405),
        ("POST", "/ping", "", {}, 405),
        ("GET", "/ping", None, {}, 200),
        ("GET", "/health", None, {}, 200),
        ("GET", "/other", None, {}, 404),
    ):
        answer = w.ask(method, path, body, **fields)
        assert answer.status == status, (method, path, body, fields, answer.status, answer.text)
    assert w.ask("GET", "/version").text == mlflow.__version__
    document = json.loads(w.ask("GET", "/swagger.json").body)
    assert document["definitions"]["ServiceInput"]["properties"]["params"]["properties"]["factor"]["type"] == "number"


def test_a_model_that_cannot_be_loaded(start: Any, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: no_such_module\n")
    w = start(None, PORTICO_MLFLOW_MODEL=str(tmp_path))
    end = time.monotonic() + LOAD_S
    while w.process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert w.ended() == 3 and "no_such_module" in w.failure
    assert w.word(7) == 1, "it is tried again, which cannot help"
    assert "the environment (of `portico infer` the interpreter that --python names) must have mlflow" in w.failure


def test_collected(start: Any, times: Path) -> None:
    """Inputs and outputs of a model are collected without any code, and joined."""
    sink = Sink()
    try:
        w = loaded(start(None, PORTICO_MLFLOW_MODEL=str(times), **sink.env))
        body = json.dumps({"input_data": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}})
        answer = w.ask(path="/score", body=body, x_request_id="r-1", **JSON)
        assert answer.status == 200, answer.text + w.log
        w.wait("collected", lambda: len(sink.events) == 2)
        assert w.ask(path="/score", body='{"input_data": [[9, 4]]}', **JSON).status == 500  # the model fails
        kinds = [(fields["ce-type"], fields["x-request-id"], text) for fields, text in sink.events]
        assert kinds == [
            ("azureml.inference.model_inputs", "r-1", '[{"a":1.0,"b":2.0},{"a":3.0,"b":4.0}]'),
            ("azureml.inference.model_outputs", "r-1", '[{"0":3.0},{"0":7.0}]'),
        ]
        assert sink.events[0][0]["ce-x-request-id"] == sink.events[1][0]["ce-x-request-id"]
    finally:
        sink.close()


@pytest.mark.parametrize(("value", "want"), [
    (np.array([1, 2]), '[{"0":1},{"0":2}]'),
    (np.zeros((2, 1, 1)), '[{"data":[[0.0]]},{"data":[[0.0]]}]'),
    (pd.Series([1.5], name="p"), '[{"p":1.5}]'),
    ({"x": np.array([1, 2]), "y": [3, 4]}, '[{"x":1,"y":3},{"x":2,"y":4}]'),
    ({"question": "why"}, '[{"question":"why"}]'),
    ([{"role": "user"}], '[{"role":"user"}]'),
    ("text", '[{"0":"text"}]'),
])  # fmt: skip
def test_collected_tables(value: Any, want: str) -> None:
    assert _table(value).to_json(orient="records") == want
