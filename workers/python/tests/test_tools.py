"""portico_tools: models trained here are converted and optimised, and what is wrong is said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from portico_tools.compare import Difference
from portico_tools.main import main

ROWS = np.random.default_rng(1).standard_normal((40, 4))
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)


def tool(folder: Path, *words: Any) -> tuple[int, dict[str, Any]]:
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    name, source, target, *more = [str(w) for w in words]
    status = main([name, source, target, str(report), *more])
    return status, json.loads(report.read_text())


def saved(folder: Path, model: Any, name: str = "model.pkl") -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(model))
    return path


def samples(folder: Path, value: Any) -> Path:
    text = json.dumps(value)
    path = folder / f"samples-{abs(hash(text))}.json"
    path.write_text(text)
    return path


def sklearn_models() -> list[Any]:
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    return [
        make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS),
        RandomForestClassifier(5, random_state=1).fit(ROWS, LABELS.astype(str)),
        GradientBoostingRegressor(n_estimators=5).fit(ROWS, ROWS[:, 2]),
        StandardScaler().fit(ROWS),
        # They have scores beside the labels, but no probabilities.
        LinearSVC().fit(ROWS, LABELS),
        RidgeClassifier().fit(ROWS, LABELS),
    ]


@pytest.mark.parametrize("model", sklearn_models(), ids=lambda m: type(m).__name__)
def test_sklearn(tmp_path: Path, model: Any) -> None:
    target = tmp_path / "model.onnx"
    for given in ([], ["--samples", samples(tmp_path, {"input_data": ROWS.tolist()})]):
        status, report = tool(tmp_path, "convert", saved(tmp_path, model), target, *given)
        assert status == 0, report
        assert report["framework"] == "sklearn" and report["max_difference"] <= report["tolerance"] == 1e-4
        assert report["samples_made_up"] is not bool(given) and report["bytes"] == target.stat().st_size
    # The verdict is checked by hand, too.
    session = onnxruntime.InferenceSession(str(target))
    answer = session.run(None, {session.get_inputs()[0].name: ROWS.astype(np.float32)})
    if hasattr(model, "predict"):
        first = np.asarray(answer[0]).reshape(-1)
        if hasattr(model, "predict_proba"):
            assert (first == model.predict(ROWS)).all() and np.allclose(answer[1], model.predict_proba(ROWS), atol=1e-4)
        else:
            assert np.allclose(first, model.predict(ROWS), atol=1e-4)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("scaled", [False, True])
def test_clusters(tmp_path: Path, kind: Any, scaled: bool) -> None:
    """They take numbers of the precision in which they were fitted, and give labels and distances."""
    from sklearn.cluster import KMeans
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # In 64 bits distances that are small beside the numbers are right, too.
    far = (ROWS * 10 + (1000 if kind == np.float64 else 0)).astype(kind)
    clusters = KMeans(3, n_init=2, random_state=1)
    model = make_pipeline(StandardScaler(), clusters) if scaled else clusters
    model.fit(far)
    centers = clusters.cluster_centers_
    centers = model.steps[0][1].inverse_transform(centers) if scaled else centers
    rows = np.concatenate([far, centers.astype(kind)])
    target = tmp_path / "model.onnx"
    given = ["--samples", samples(tmp_path, rows.tolist())] if kind == np.float64 else []
    status, report = tool(tmp_path, "convert", saved(tmp_path, model), target, *given)
    assert status == 0, report
    session = onnxruntime.InferenceSession(str(target))
    assert session.get_inputs()[0].type == ("tensor(double)" if kind == np.float64 else "tensor(float)")
    labels, distances = session.run(None, {session.get_inputs()[0].name: rows})
    assert np.isfinite(distances).all()
    assert (labels == model.predict(rows)).all()
    if kind == np.float64:
        assert np.allclose(distances, model.transform(rows), atol=1e-4)


def test_columns_by_name(tmp_path: Path) -> None:
    import pandas
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = pandas.DataFrame({"size": ROWS[:, 0], "count": np.arange(40) % 3, "kind": ["a", "b"] * 20})
    pick = ColumnTransformer([("n", StandardScaler(), ["size", "count"]), ("c", OneHotEncoder(), ["kind"])])
    model = saved(tmp_path, make_pipeline(pick, LogisticRegression()).fit(table, LABELS))
    status, report = tool(tmp_path, "convert", model, tmp_path / "m.onnx")
    assert status == 2 and "--samples" in report["error"] and not (tmp_path / "m.onnx").exists()
    given = samples(tmp_path, {"columns": list(table.columns), "data": table.to_numpy().tolist()})
    status, report = tool(tmp_path, "convert", model, tmp_path / "m.onnx", "--samples", given)
    assert status == 0, report
    assert [i.split(" ")[0:2] for i in report["inputs"]] == [
        ["size:", "float"],
        ["count:", "int64"],
        ["kind:", "string"],
    ]


def test_lightgbm(tmp_path: Path) -> None:
    import lightgbm

    quiet = {"n_estimators": 4, "verbose": -1}
    for model in (
        lightgbm.LGBMClassifier(**quiet).fit(ROWS, LABELS),
        lightgbm.LGBMRegressor(**quiet).fit(ROWS, ROWS[:, 1]),
    ):
        for one in (model, model.booster_):
            status, report = tool(tmp_path, "convert", saved(tmp_path, one), tmp_path / "m.onnx")
            assert status == 0 and report["framework"] == "lightgbm", report


def test_xgboost_with_named_columns(tmp_path: Path) -> None:
    import pandas
    import xgboost

    rows = pandas.DataFrame(ROWS, columns=["height", "width", "depth", "weight"])
    classifier = xgboost.XGBClassifier(n_estimators=3).fit(rows, LABELS)
    regressor = xgboost.XGBRegressor(n_estimators=3).fit(rows, ROWS[:, 2])
    for model in (classifier, regressor, regressor.get_booster()):
        status, report = tool(tmp_path, "convert", saved(tmp_path, model), tmp_path / "m.onnx")
        assert status == 0 and report["framework"] == "xgboost", report


def test_mlflow_folder(tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.pkl\n  python_function: {}\n")
    saved(folder, sklearn_models()[0])
    (folder / "serving_input_example.json").write_text(json.dumps({"inputs": ROWS[:7].tolist()}))
    status, report = tool(tmp_path, "convert", folder.parent, tmp_path / "m.onnx")
    assert status == 0 and report["samples"] == 7 and not report["samples_made_up"], report
    for text, says in (
        ("flavors: {sklearn: {pickled_model: ../../x}}", "not in the folder"),
        ("flavors: {onnx: {}}", "ONNX already"),
        ("flavors: {spacy: {}}", "the flavors spacy"),
    ):
        (folder / "MLmodel").write_text(text)
        status, report = tool(tmp_path, "convert", folder, tmp_path / "n.onnx")
        assert status == 2 and says in report["error"], report


def test_bad_sources(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    (tmp_path / "junk.pkl").write_bytes(b"not a pickle")
    (tmp_path / "missing.pkl").write_bytes(b"cno_such_package\nThing\n.")
    for source, says in (
        (tmp_path / "junk.pkl", "cannot be read as a model"),
        (tmp_path / "missing.pkl", "no_such_package is not in"),
        (saved(tmp_path, {"a": 1}), "not a model that can be converted"),
        (tmp_path, "has no MLmodel file"),
    ):
        status, report = tool(tmp_path, "convert", source, target)
        assert status == 2 and says in report["error"] and not target.exists(), report


def test_a_wrong_conversion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import skl2onnx

    right = skl2onnx.to_onnx
    other = sklearn_models()[0]
    other.steps[-1][1].coef_ *= -1
    monkeypatch.setattr(
        skl2onnx, "to_onnx", lambda model, **kw: right(other, **{**kw, "options": {id(other): {"zipmap": False}}})
    )
    status, report = tool(tmp_path, "convert", saved(tmp_path, sklearn_models()[0]), tmp_path / "m.onnx")
    assert status == 2 and "does not say what the original says" in report["error"]
    assert not (tmp_path / "m.onnx").exists()


def network(path: Path, width: int = 128) -> Path:
    """Three layers with weights in 32 bits."""
    generator = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for n in range(3):
        weights.append(
            numpy_helper.from_array(generator.standard_normal((width, width)).astype(np.float32) / 11, f"w{n}")
        )
        nodes += [helper.make_node("MatMul", [at, f"w{n}"], [f"m{n}"]), helper.make_node("Relu", [f"m{n}"], [f"r{n}"])]
        at = f"r{n}"
    nodes.append(helper.make_node("Identity", [at], ["y"]))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_optimize(tmp_path: Path) -> None:
    source, target = network(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    status, report = tool(tmp_path, "optimize", source, target, "--rounds", 3)
    assert status == 0, report
    assert report["nodes_after"] < report["nodes_before"] and report["max_difference"] <= 1e-4 and report["rounds"] == 3
    assert report["run_ms_before"] > 0 and report["run_ms_after"] > 0 and report["samples_made_up"]
    status, report = tool(tmp_path, "optimize", source, target, "--rounds", 3, "--int8")
    assert status == 0, report
    assert report["bytes_after"] < report["bytes_before"] / 3 and report["bytes_after"] == target.stat().st_size
    assert 0 < report["max_difference"] < 0.2 and report["tolerance"] is None
    before = target.read_bytes()
    status, report = tool(tmp_path, "optimize", source, target, "--int8", "--tolerance", 1e-6)
    assert status == 2 and "more than the tolerance" in report["error"] and target.read_bytes() == before


def test_a_converted_network_in_8_bits(tmp_path: Path) -> None:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((32,), max_iter=30, random_state=1).fit(ROWS, LABELS)
    assert tool(tmp_path, "convert", saved(tmp_path, model), tmp_path / "m.onnx")[0] == 0
    given = samples(tmp_path, ROWS.tolist())
    status, report = tool(tmp_path, "optimize", tmp_path / "m.onnx", tmp_path / "s.onnx", "--int8", "--samples", given)
    assert status == 0 and report["equal_labels"] > 0.9 and not report["samples_made_up"], report


def test_optimize_refuses(tmp_path: Path) -> None:
    tree = tmp_path / "tree.onnx"
    assert tool(tmp_path, "convert", saved(tmp_path, sklearn_models()[1]), tree)[0] == 0
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    network(tmp_path / "net.onnx", 8)
    out = tmp_path / "out.onnx"
    for words, says in (
        (["optimize", tree, out, "--int8"], "no weights that 8 bits could hold"),
        (["optimize", tmp_path / "junk.onnx", out], "is no ONNX model"),
        (
            ["optimize", tmp_path / "net.onnx", out, "--samples", samples(tmp_path, [[1, 2]])],
            "dimension 1 of the samples",
        ),
        (["optimize", tmp_path / "net.onnx", out, "--samples", samples(tmp_path, {"z": [1]})], "lack the inputs x"),
        (["optimize", tmp_path / "net.onnx", out, "--samples", samples(tmp_path, [["a"] * 8])], "do not fit"),
    ):
        status, report = tool(tmp_path, *words)
        assert status == 2 and says in report["error"] and not out.exists(), report


def test_difference() -> None:
    apart = Difference()
    apart.add("x", np.array([1.0, np.nan, np.inf]), np.array([1.5, np.nan, np.inf]))
    assert apart.greatest == 0.5 / 2.5
    apart.add("x", np.array([0.0]), np.array([np.nan]))
    assert apart.greatest == 1.0
    apart.add("labels", np.array(["a", "b"]), np.array(["a", "c"]))
    apart.add("maps", [{"b": 1.0, "a": 2.0}], [{"a": 2.0, "b": 1.0}])
    assert apart.report() == {"max_difference": 1.0, "equal_labels": 0.5}
    assert "1 of 2 labels" in apart.fault(2, True) and apart.fault(2, False) == ""
    apart.add("shape", np.zeros(2), np.zeros(3))
    assert "different shapes" in apart.fault(2, False)
