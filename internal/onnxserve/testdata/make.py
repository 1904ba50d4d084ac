"""Makes the models beside it, which are committed: tests need neither this script nor its packages.

Run it with onnx, skl2onnx and scikit-learn installed. expected.json holds what onnxruntime's own Python package answers.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

HERE = pathlib.Path(__file__).parent
OPSET = 17
TYPES = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16, "int8": TensorProto.INT8, "int16": TensorProto.INT16, "int32": TensorProto.INT32,
    "int64": TensorProto.INT64, "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64, "bool": TensorProto.BOOL, "string": TensorProto.STRING,
}  # fmt: skip


def save(name: str, model: Any) -> None:
    """Write a model that every supported ONNX Runtime reads."""
    model.ir_version = 8
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())


def graph(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any] | None = None) -> None:
    """Make and save a model of these nodes."""
    made = helper.make_graph(nodes, name, inputs, outputs, weights or [])
    save(name, helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)]))


def tensor(name: str, kind: int, shape: list[Any] | None) -> Any:
    """Describe an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def classifiers() -> None:
    """Logistic regression on iris: with maps of probabilities, with a table of them, and with texts for classes."""
    features, target = load_iris(return_X_y=True)
    features = features.astype(np.float32)
    texts = np.array(["setosa", "versicolor", "virginica"])[target]
    number = LogisticRegression(max_iter=1000).fit(features, target)
    text = LogisticRegression(max_iter=1000).fit(features, texts)
    first = [("X", FloatTensorType([None, 4]))]
    options = {id(number): {"zipmap": False}}
    save("iris-maps", to_onnx(number, initial_types=first, target_opset=OPSET))
    save("iris-texts", to_onnx(text, initial_types=first, target_opset=OPSET))
    save("iris", to_onnx(number, initial_types=first, target_opset=OPSET, options=options))


def columns() -> None:
    """A pipeline with an input for each column."""
    color = np.array([["red"], ["green"], ["blue"], ["red"]], dtype=object)
    size = np.array([[1.0], [2.0], [3.0], [4.0]], dtype=np.float32)
    data = np.concatenate([size.astype(object), color], axis=1)
    made = Pipeline([
        ("columns", ColumnTransformer([("size", "passthrough", [0]), ("color", OneHotEncoder(), [1])])),
        ("model", LogisticRegression()),
    ]).fit(data, np.array([0, 1, 1, 0]))  # fmt: skip
    types = [("size", FloatTensorType([None, 1])), ("color", StringTensorType([None, 1]))]
    save("columns", to_onnx(made, initial_types=types, target_opset=OPSET, options={"zipmap": False}))


def graphs() -> None:
    """Models that are made by hand, each for one thing."""
    names = sorted(TYPES)
    graph(
        "types",
        [helper.make_node("Identity", [n], [f"{n}_out"]) for n in names],
        [tensor(n, TYPES[n], ["n", 2]) for n in names],
        [tensor(f"{n}_out", TYPES[n], ["n", 2]) for n in names],
    )
    graph(
        "add",
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        [tensor("a", TensorProto.FLOAT, ["batch", "width"]), tensor("b", TensorProto.FLOAT, ["batch", "width"])],
        [tensor("sum", TensorProto.FLOAT, ["batch", "width"])],
    )
    graph("scalar", [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", TensorProto.DOUBLE, [])],
          [tensor("y", TensorProto.DOUBLE, [])])  # fmt: skip
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    graph("sequence", [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0, keepdims=0),
                       helper.make_node("Neg", ["x"], ["y"])],
          [tensor("x", TensorProto.FLOAT, ["n", 2])], [parts, tensor("y", TensorProto.FLOAT, ["n", 2])])  # fmt: skip
    fixed = helper.make_tensor("value", TensorProto.FLOAT, [2], [1.5, 2.5])
    graph("constant", [helper.make_node("Constant", [], ["y"], value=fixed)], [], [tensor("y", TensorProto.FLOAT, [2])])
    wanted = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    graph("takes-sequence", [helper.make_node("SequenceLength", ["x"], ["n"])], [wanted],
          [tensor("n", TensorProto.INT64, [])])  # fmt: skip
    graph("partly", [helper.make_node("Neg", ["x"], ["y"]),
                     helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)],
          [tensor("x", TensorProto.FLOAT, ["n", 2])],
          [tensor("y", TensorProto.FLOAT, ["n", 2]), tensor("total", TensorProto.FLOAT, [])])  # fmt: skip
    # It says that it takes any number of rows, and fails on more than one.
    graph("single", [helper.make_node("Reshape", ["x", "one"], ["row"]), helper.make_node("Neg", ["row"], ["y"])],
          [tensor("x", TensorProto.FLOAT, ["n", 2])], [tensor("y", TensorProto.FLOAT, ["n", 2])],
          [helper.make_tensor("one", TensorProto.INT64, [2], [1, 2])])  # fmt: skip
    graph("flat", [helper.make_node("Neg", ["a"], ["a_out"]), helper.make_node("Neg", ["b"], ["b_out"]),
                   helper.make_node("Identity", ["c"], ["c_out"])],
          [tensor("a", TensorProto.FLOAT, ["n"]), tensor("b", TensorProto.FLOAT, ["n", "k", 2]),
           tensor("c", TensorProto.STRING, ["n"])],
          [tensor("a_out", TensorProto.FLOAT, ["n"]), tensor("b_out", TensorProto.FLOAT, ["n", "k", 2]),
           tensor("c_out", TensorProto.STRING, ["n"])])  # fmt: skip
    graph("anyrank", [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", TensorProto.FLOAT, None)],
          [tensor("y", TensorProto.FLOAT, None)])  # fmt: skip
    slow()


def slow() -> None:
    """A loop that runs as often as its input says: the way to a request that takes long."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["old", "factor"], ["new"]),
        ],
        "body",
        [tensor("i", TensorProto.INT64, []), tensor("go", TensorProto.BOOL, []), tensor("old", TensorProto.FLOAT, [1])],
        [tensor("go_on", TensorProto.BOOL, []), tensor("new", TensorProto.FLOAT, [1])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [1.0])],
    )
    loop = helper.make_node("Loop", ["count", "always", "start"], ["end"], body=body)
    weights = [
        helper.make_tensor("always", TensorProto.BOOL, [], [True]),
        helper.make_tensor("start", TensorProto.FLOAT, [1], [1.0]),
    ]
    graph("slow", [helper.make_node("Squeeze", ["times"], ["count"]), loop], [tensor("times", TensorProto.INT64, [1])],
          [tensor("end", TensorProto.FLOAT, [1])], weights)  # fmt: skip
    # Of any number of rows: as long as the largest asks for.
    graph("slow-rows", [helper.make_node("ReduceMax", ["times"], ["count"], keepdims=0), loop,
                        helper.make_node("Shape", ["times"], ["rows"]),
                        helper.make_node("Expand", ["end", "rows"], ["ends"])],
          [tensor("times", TensorProto.INT64, ["n"])], [tensor("ends", TensorProto.FLOAT, ["n"])], weights)  # fmt: skip


def expect() -> None:
    """Write what the reference answers on a few rows."""
    rows = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3]]
    answers: dict[str, Any] = {"rows": rows}
    for name in ("iris", "iris-maps", "iris-texts"):
        session = onnxruntime.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        label, scores = session.run(None, {"X": np.array(rows, dtype=np.float32)})
        scores = scores.tolist() if hasattr(scores, "tolist") else [
            {str(k): float(v) for k, v in row.items()} for row in scores
        ]  # fmt: skip
        names = [output.name for output in session.get_outputs()]
        answers[name] = {names[0]: label.tolist(), names[1]: scores}
    session = onnxruntime.InferenceSession(str(HERE / "columns.onnx"), providers=["CPUExecutionProvider"])
    given = {"size": np.array([[1.5], [3.5]], dtype=np.float32), "color": np.array([["blue"], ["red"]], dtype=object)}
    names = [output.name for output in session.get_outputs()]
    answers["columns"] = {n: v.tolist() for n, v in zip(names, session.run(None, given))}
    (HERE / "expected.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    classifiers()
    columns()
    graphs()
    for path in sorted(HERE.glob("*.onnx")):
        if path.stem != "anyrank":  # ONNX Runtime takes inputs without a shape, the checker does not
            onnx.checker.check_model(onnx.load(path))
    expect()
