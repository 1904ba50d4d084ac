"""Train and save the models of the MLflow tests: train.py FOLDER NAME..."""

import importlib.metadata
import sys
from pathlib import Path

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature


def pins(*names):
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def table():
    """A hundred rows of two columns; the label says whether their sum is positive."""
    draw = np.random.default_rng(7)
    rows = pd.DataFrame(draw.normal(size=(100, 2)), columns=["a", "b"])
    return rows, (rows.a + rows.b > 0).astype("int64").to_numpy()


def sklearn(path):
    from sklearn.linear_model import LogisticRegression

    rows, labels = table()
    model = LogisticRegression(C=100).fit(rows, labels)
    mlflow.sklearn.save_model(
        model, path, signature=infer_signature(rows, model.predict(rows)), serialization_format="cloudpickle",
        pip_requirements=pins("mlflow-skinny", "scikit-learn", "pandas", "numpy", "cloudpickle"),
    )  # fmt: skip


def python(path):
    """A model that multiplies by a parameter, with code of its own."""

    class Times(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input.sum(axis=1) * params["factor"]

    rows, _ = table()
    mlflow.pyfunc.save_model(
        path, python_model=Times(), signature=infer_signature(rows, rows.a, params={"factor": 2.0}),
        pip_requirements=pins("mlflow-skinny", "scikit-learn", "pandas", "numpy", "cloudpickle"),
    )  # fmt: skip


def bare(path):
    """A model without a signature, which says what it was given: the type, names, the shape."""

    class Tell(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            def shape(value):
                return "x".join(str(n) for n in getattr(value, "shape", ()))

            kind = type(model_input).__name__
            if isinstance(model_input, dict):
                return [kind, " ".join(model_input), " ".join(shape(v) for v in model_input.values())]
            if isinstance(model_input, (str, list)):
                return [kind, model_input if kind == "str" else " ".join(str(v) for v in model_input), ""]
            return [kind, " ".join(str(name) for name in getattr(model_input, "columns", ())), shape(model_input)]

    mlflow.pyfunc.save_model(
        path, python_model=Tell(),
        pip_requirements=pins("mlflow-skinny", "scikit-learn", "pandas", "numpy", "cloudpickle"),
    )  # fmt: skip


def tensors(path):
    """The sum of each row of an array of two columns."""

    class Sum(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input.sum(axis=1)

    rows = np.zeros((1, 2), dtype="float64")
    mlflow.pyfunc.save_model(
        path, python_model=Sum(), signature=infer_signature(rows, rows.sum(axis=1)),
        pip_requirements=pins("mlflow-skinny", "scikit-learn", "pandas", "numpy", "cloudpickle"),
    )  # fmt: skip


def xgboost(path):
    import mlflow.xgboost
    from xgboost import XGBClassifier

    rows, labels = table()
    mlflow.xgboost.save_model(
        XGBClassifier(n_estimators=10).fit(rows, labels), path, signature=infer_signature(rows, labels),
        pip_requirements=pins("mlflow-skinny", "xgboost-cpu", "scikit-learn", "pandas", "numpy"),
    )  # fmt: skip


def lightgbm(path):
    import mlflow.lightgbm
    from lightgbm import LGBMClassifier

    rows, labels = table()
    mlflow.lightgbm.save_model(
        LGBMClassifier(n_estimators=10, verbose=-1).fit(rows, labels), path, signature=infer_signature(rows, labels),
        serialization_format="cloudpickle",
        pip_requirements=pins("mlflow-skinny", "lightgbm", "scikit-learn", "pandas", "numpy", "cloudpickle"),
    )  # fmt: skip


def onnx(path):
    """The sum of each row, as ONNX."""
    import mlflow.onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    rows = np.zeros((1, 2), dtype="float32")
    mlflow.onnx.save_model(
        model, path, signature=infer_signature(rows, rows.sum(axis=1)),
        pip_requirements=pins("mlflow-skinny", "onnx", "onnxruntime", "pandas", "numpy"),
    )  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[2:]:
        globals()[name](str(Path(sys.argv[1]) / name))
