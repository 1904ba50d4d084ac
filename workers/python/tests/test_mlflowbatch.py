"""Joined requests to MLflow models: rows are predicted together, and every request gets its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import test_mlflowbatch
from mlflow.models import infer_signature
from portico_worker.http1 import Head, Request
from portico_worker.mlflowmodel import Model
from portico_worker.responses import AMLResponse, convert
from test_batch import ask
from test_batch import request as plain
from test_mlflow import loaded


class Sums(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Sums rows, times a parameter. It notes how many rows came, and fails on the sum 13."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        print("rows:", len(model_input))
        total = model_input.sum(axis=1)
        if (total == 13).any():
            raise RuntimeError("unlucky")
        result = total * (params or {}).get("factor", 1.0)
        form = (params or {}).get("form", "array")
        if form == "frame":
            return pd.DataFrame({"sum": result, "rows": len(model_input)})
        if form == "series":
            return pd.Series(result, name="sum")
        if form == "dict":
            return {"sum": result.to_numpy(), "twice": 2 * result.to_numpy()}
        return list(result) if form == "list" else result.to_numpy()


class Pair(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Gives two numbers for any number of rows."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return [float(model_input["a"].sum()), float(len(model_input))]


class Single(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Takes one row at a time."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        print("rows:", len(model_input))
        if len(model_input) > 1:
            raise RuntimeError("one row, please")
        return model_input["a"].to_numpy()


def save(path: Path, model: Any) -> Path:
    cloudpickle.register_pickle_by_value(test_mlflowbatch)
    rows = pd.DataFrame({"a": [1.0], "b": [2.0]})
    signature = infer_signature(rows, np.array([1.0]), params={"factor": 1.0, "form": "array"})
    mlflow.pyfunc.save_model(str(path), python_model=model, signature=signature, pip_requirements=["mlflow-skinny"])
    return path


class Served:
    """A model in this process, with the sizes of the tables that it was given."""

    def __init__(self, folder: Path) -> None:
        self.model = Model(str(folder))
        self.model.init()
        assert self.model.joint is not None
        self.rows: list[int] = []
        predict = self.model.predict

        def counted(data: Any, params: Any) -> Any:
            self.rows.append(len(data) if hasattr(data, "__len__") else 0)
            return predict(data, params)

        self.model.predict = counted  # type: ignore[method-assign]

    def ask(self, *bodies: Any, path: str = "/score") -> list[tuple[int, Any] | str]:
        assert self.model.joint is not None
        items = []
        for body in bodies:
            kind = b"text/csv" if isinstance(body, str) else b"application/json"
            request = Request(Head(b"POST", path.encode(), {b"content-type": kind}))
            request.body = (body if isinstance(body, str) else json.dumps(body)).encode()
            items.append(self.model.joint.take(request))
        self.rows.clear()
        return [shown(result) for result in self.model.joint.run(items)]


def shown(result: Any) -> tuple[int, Any] | str:
    if isinstance(result, Exception):
        return type(result).__name__
    assert isinstance(result, AMLResponse)
    answer = convert(result)
    return answer.status, json.loads(answer.body)


def rows(*pairs: tuple[float, float], params: Any = None, index: Any = None) -> dict[str, Any]:
    data: dict[str, Any] = {"columns": ["a", "b"], "data": [list(pair) for pair in pairs]}
    if index is not None:
        data["index"] = index
    return {"input_data": data} | ({"params": params} if params is not None else {})


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTICO_BATCHING", "true")


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "sums", Sums())


def test_rows_meet_and_part(on: None, sums: Path) -> None:
    s = Served(sums)
    # That it answers row by row is believed after two numbers of rows.
    assert s.ask(rows((1, 2)), rows((3, 4))) == [(200, [3.0]), (200, [7.0])]
    assert s.rows == [2, 1, 1]
    assert s.ask(rows((1, 2)), rows((3, 4), (5, 6)), rows((7, 8))) == [(200, [3.0]), (200, [7.0, 11.0]), (200, [15.0])]
    assert s.rows == [4]
    # Params, an index of the caller's own and no rows at all keep requests apart.
    assert s.ask(
        rows((1, 2), params={"factor": 10.0}), rows((1, 2)), rows((3, 4), params={"factor": 10.0}),
        rows((1, 1), index=[5]), rows((3, 3)),
    ) == [(200, [30.0]), (200, [3.0]), (200, [70.0]), (200, [2.0]), (200, [6.0])]  # fmt: skip
    assert sorted(s.rows) == [1, 2, 2]


def test_every_form_of_predictions(on: None, sums: Path) -> None:
    s = Served(sums)
    s.ask(rows((1, 2)), rows((3, 4)))
    for form, want in {
        "array": ([3.0], [7.0, 11.0]),
        "list": ([3.0], [7.0, 11.0]),
        "series": ([{"sum": 3.0}], [{"sum": 7.0}, {"sum": 11.0}]),
        "frame": ([{"sum": 3.0, "rows": 3}], [{"sum": 7.0, "rows": 3}, {"sum": 11.0, "rows": 3}]),
        "dict": ({"sum": [3.0], "twice": [6.0]}, {"sum": [7.0, 11.0], "twice": [14.0, 22.0]}),
    }.items():
        params = {"form": form}
        got = s.ask(rows((1, 2), params=params), rows((3, 4), (5, 6), params=params))
        assert got == [(200, want[0]), (200, want[1])], form
        assert s.rows == [3], form


def test_only_the_bad_one_fails(on: None, sums: Path) -> None:
    s = Served(sums)
    s.ask(rows((1, 2)), rows((3, 4)))
    missing, text = {"columns": ["a"], "data": [[1]]}, {"columns": ["a", "b"], "data": [["x", 1]]}
    got = s.ask(rows((1, 2)), rows((6, 7)), {"input_data": missing}, rows((3, 4)), {"input_data": text},
                {"input_data": 1, "params": [1]})  # fmt: skip
    assert [one if isinstance(one, str) else one[0] for one in got] == [200, "RuntimeError", 400, 200, 400, 400]
    assert (got[0], got[3]) == ((200, [3.0]), (200, [7.0]))
    assert s.ask(rows((1, 2)), rows((3, 4))) == [(200, [3.0]), (200, [7.0])]
    assert s.rows == [2]  # a raise that had a reason does not end the joining


def test_both_protocols(on: None, sums: Path) -> None:
    s = Served(sums)
    split = {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}}
    arrays = {"inputs": {"a": [1, 2], "b": [2, 2]}}
    got = s.ask(split, "a,b\n3,4\n", split, arrays, arrays, {"x": 1}, "b\n", path="/invocations")
    assert got[:5] == [(200, {"predictions": p}) for p in ([3.0], [7.0], [3.0], [3.0, 4.0], [3.0, 4.0])]
    assert [one[0] for one in got[5:]] == [400, 400]
    assert s.ask(split, "a,b\n3,4\n", path="/invocations")[1] == (200, {"predictions": [7.0]})
    assert s.rows == [2]


def test_answers_that_are_not_by_row_are_never_taken_apart(
    on: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s = Served(save(tmp_path / "pair", Pair()))
    # Two rows and two numbers: only the second look shows that they are not one for each.
    for _ in range(3):
        assert s.ask(rows((1, 2)), rows((3, 4))) == [(200, [1.0, 1.0]), (200, [3.0, 1.0])]
    assert s.rows == [1, 1]
    assert "cannot be batched" in caplog.text


def test_a_model_that_takes_one_row_is_left_alone(on: None, tmp_path: Path) -> None:
    s = Served(save(tmp_path / "single", Single()))
    for want in ([2, 1, 1], [1, 1]):
        assert s.ask(rows((1, 2)), rows((3, 4))) == [(200, [1.0]), (200, [3.0])]
        assert s.rows == want


def test_a_worker(start: Any, sums: Path) -> None:
    w = loaded(start(None, PORTICO_MLFLOW_MODEL=str(sums), PORTICO_BATCHING="true"))
    for _ in range(2):
        parts = ask(w, *(plain(json.dumps(rows((i, i), (i, 1))), f"id-{i}") for i in range(5)), plain("{"))
        assert [(part.status, part.headers["x-request-id"]) for part in parts[:5]] == [
            (200, f"id-{i}") for i in range(5)
        ]
        assert [part.value for part in parts[:5]] == [[2.0 * i, i + 1.0] for i in range(5)]
        assert parts[5].status == 400
    assert w.log.count("rows: 10") == 2
    assert w.log.count("rows: 2") == 5
    assert w.ask(body=json.dumps(rows((1, 2))), content_type="application/json").text == "[3.0]"
