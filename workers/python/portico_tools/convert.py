"""Turn a trained model into ONNX with the established converters, and prove on samples that it still says the same."""

from __future__ import annotations

import os
import pickle
import tempfile
from typing import Any

import numpy as np
import onnx
import onnxruntime

from . import mlmodel, samples
from .compare import Difference
from .main import Refused
from .optimize import _move

TOLERANCE = 1e-4  # ONNX computes in 32 bits what Python computed in 64
TORCH_TOLERANCE = 1e-3


def run(args: Any) -> dict[str, Any]:
    """Convert args.source into args.target."""
    model, framework, example = _load(args.source)
    given = samples.load(args.samples) if args.samples else example
    convert = {"sklearn": _sklearn, "xgboost": _boosted, "lightgbm": _boosted, "torch": _torch}[framework]
    with tempfile.TemporaryDirectory() as scratch:
        step = os.path.join(scratch, "model.onnx")
        document, given_values, expected, made_up = convert(model, given, args.opset, step)
        if document is not None:
            with open(step, "wb") as out:
                out.write(document.SerializeToString())
        onnx.checker.check_model(step)
        tolerance = args.tolerance if args.tolerance >= 0 else TORCH_TOLERANCE if framework == "torch" else TOLERANCE
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(step, options, providers=["CPUExecutionProvider"])
        feed = {i.name: given_values[n] for n, i in enumerate(session.get_inputs())}
        apart = _compare(expected, session, feed)
        fault = apart.fault(tolerance, labels=True)
        if fault:
            raise Refused(f"the converted model does not say what the original says: {fault}; nothing was written")
        report = {
            "source": args.source,
            "target": args.target,
            "framework": framework,
            "model": type(model).__name__,
            "bytes": os.path.getsize(step),
            "opset": _opsets(step),
            "inputs": [_shown(i) for i in session.get_inputs()],
            "outputs": [_shown(o) for o in session.get_outputs()],
            "samples": samples.rows(feed),
            "samples_made_up": made_up,
            **apart.report(),
            "tolerance": tolerance,
            "onnxruntime": onnxruntime.__version__,
        }
        _move(step, args.target)
    return report


def _opsets(path: str) -> str:
    """The sets of operators that a runtime must have: 22, ml 1."""
    sets = onnx.load(path, load_external_data=False).opset_import
    known = {str(s.domain).replace("ai.onnx.ml", "ml").removeprefix("ai.onnx"): s.version for s in sets}
    return ", ".join(f"{domain} {version}".strip() for domain, version in sorted(known.items()))


def _shown(value: Any) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in value.shape)
    return f"{value.name}: {value.type[7:-1] if value.type.startswith('tensor(') else value.type} [{shape}]"


def _load(source: str) -> tuple[Any, str, Any]:
    """The model, its framework, and an example of its input where it has one."""
    if os.path.isdir(source):
        folder = mlmodel.find(source)
        framework, path = mlmodel.read(folder)
        return _read(path, framework), framework, mlmodel.example(folder)
    framework = "torch" if source.endswith((".pt", ".pth")) else ""
    model = _read(source, framework)
    return model, framework or _framework(model), None


def _framework(model: Any) -> str:
    for kind in type(model).__mro__:
        root = kind.__module__.split(".")[0]
        if root in ("xgboost", "lightgbm", "sklearn", "torch"):
            return root
    raise Refused(f"a {type(model).__module__}.{type(model).__name__} is not a model that can be converted: "
                  "scikit-learn, XGBoost, LightGBM and PyTorch models can")  # fmt: skip


def _read(path: str, framework: str) -> Any:
    """Read a model. A pickle runs the code that it holds: that is why the tools run in a process without secrets."""
    try:
        if framework == "torch":
            return _read_torch(path)
        if framework == "xgboost" and not path.endswith((".pkl", ".pickle", ".joblib")):
            import xgboost

            booster = xgboost.Booster()
            booster.load_model(path)
            return booster
        if framework == "lightgbm" and not path.endswith((".pkl", ".pickle", ".joblib")):
            import lightgbm

            return lightgbm.Booster(model_file=path)
        try:
            import joblib

            return joblib.load(path)
        except ModuleNotFoundError as missing:
            if missing.name != "joblib":
                raise
            with open(path, "rb") as file:
                return pickle.load(file)
    except (ModuleNotFoundError, Refused):
        raise
    except Exception as error:
        raise Refused(f"{os.path.basename(path)} cannot be read as a model: {type(error).__name__}: {error}") from None


def _read_torch(path: str) -> Any:
    import torch

    try:
        return torch.jit.load(path, map_location="cpu")
    except RuntimeError:
        model = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(model, torch.nn.Module):
        raise Refused(
            "the file holds weights without a network; save the whole model, or torch.jit.script(model).save(...)"
        )
    return model


def _table(given: Any, columns: int, names: list[str], kind: Any = np.float32) -> tuple[Any, bool]:
    """Samples as a DataFrame when they have names and types, else as a matrix; made up when there are none."""
    if given is None:
        if names:
            raise Refused("the model takes columns by name, for which nothing sensible can be made up; give --samples")
        if not columns:
            raise Refused("the model does not say how many features it takes; give --samples")
        return np.random.default_rng(samples.SEED).standard_normal((64, columns)).astype(kind), True
    if isinstance(given, dict) and "data" in given and "columns" in given:
        import pandas  # type: ignore[import-untyped]

        return pandas.DataFrame(given["data"], columns=given["columns"]), False
    if isinstance(given, list) and given and isinstance(given[0], dict):
        import pandas

        return pandas.DataFrame(given), False
    if isinstance(given, dict):
        import pandas

        return pandas.DataFrame({name: np.asarray(values).reshape(-1) for name, values in given.items()}), False
    array = np.asarray(given)
    if array.ndim != 2 or array.dtype == np.object_:
        raise Refused("the samples must be a list of rows of numbers, or an object with columns and data")
    if names:
        import pandas

        return pandas.DataFrame(array, columns=names), False
    return array.astype(kind), False


def _sklearn(model: Any, given: Any, opset: int, step: str) -> tuple[Any, list[Any], list[Any], bool]:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType

    centers = getattr(getattr(model, "steps", [("", model)])[-1][1], "cluster_centers_", None)
    # Of clusters the square of a distance is a difference of large numbers, and they take no other numbers than those
    # of the precision in which they were fitted.
    kind = np.float32 if centers is None else centers.dtype.type
    real = DoubleTensorType if kind == np.float64 else FloatTensorType
    names = [str(n) for n in getattr(model, "feature_names_in_", [])]
    table, made_up = _table(given, int(getattr(model, "n_features_in_", 0)), names if _by_name(model) else [], kind)
    if isinstance(table, np.ndarray):
        types, feed = [("input", real([None, table.shape[1]]))], [table]
    elif not _by_name(model):
        table = table.to_numpy().astype(kind)
        types, feed = [("input", real([None, table.shape[1]]))], [table]
        if names:
            import pandas

            table = pandas.DataFrame(table, columns=names)
    else:
        types, feed = [], []
        for name in table.columns:
            own = table[name].dtype
            if np.issubdtype(own, np.floating) if isinstance(own, np.dtype) else False:
                table[name] = table[name].astype(kind)
                types.append((str(name), real([None, 1])))
                feed.append(table[name].to_numpy().reshape(-1, 1))
            elif np.issubdtype(own, np.integer) if isinstance(own, np.dtype) else False:
                types.append((str(name), Int64TensorType([None, 1])))
                feed.append(table[name].to_numpy().astype(np.int64).reshape(-1, 1))
            else:
                types.append((str(name), StringTensorType([None, 1])))
                feed.append(table[name].to_numpy().astype(object).reshape(-1, 1))
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    try:
        document = to_onnx(model, initial_types=types, options=options, target_opset=opset or None)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise Refused(f"skl2onnx cannot convert {type(model).__name__}: {' '.join(str(error).split())[:600]}") from None
    expected = [model.transform(table)] if not hasattr(model, "predict") else [model.predict(table)]
    if hasattr(model, "predict_proba"):
        expected.append(model.predict_proba(table))
    elif centers is not None and hasattr(model, "transform"):
        _roots_of_positive(document.graph)
        expected.append(model.transform(table))
    return document, feed, [_dense(e) for e in expected], made_up


def _roots_of_positive(graph: Any) -> None:
    """Where a row lies on a center its squared distance may be computed as less than zero, whose root is no number."""
    for node in [n for n in graph.node if n.op_type == "Sqrt"]:
        positive = onnx.helper.make_node("Relu", [node.input[0]], [f"{node.input[0]}_positive"])
        node.input[0] = positive.output[0]
        graph.node.insert(list(graph.node).index(node), positive)


def _by_name(model: Any) -> bool:
    """Whether a pipeline picks columns by name, so that each must be an input of its own."""
    parts = [model] + [part for _, part in getattr(model, "steps", [])]
    return any(type(part).__name__ == "ColumnTransformer" for part in parts)


def _dense(value: Any) -> Any:
    return value.toarray() if hasattr(value, "toarray") else value


def _boosted(model: Any, given: Any, opset: int, step: str) -> tuple[Any, list[Any], list[Any], bool]:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    framework = _framework(model)
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    columns = booster.num_features() if hasattr(booster, "num_features") else 0
    columns = columns or int(getattr(model, "n_features_in_", 0)) or booster.num_feature()
    table, made_up = _table(given, columns, [])
    table = table if isinstance(table, np.ndarray) else table.to_numpy().astype(np.float32)
    types = [("input", FloatTensorType([None, table.shape[1]]))]
    if framework == "xgboost" and booster.feature_names is not None:
        booster.feature_names = None  # the converter knows no names; the result takes columns by position anyway
    convert = onnxmltools.convert_xgboost if framework == "xgboost" else onnxmltools.convert_lightgbm
    more = {"zipmap": False} if framework == "lightgbm" else {}
    try:
        document = convert(model, initial_types=types, target_opset=opset or 15, **more)
    except Exception as error:
        raise Refused(
            f"onnxmltools cannot convert {type(model).__name__}: {' '.join(str(error).split())[:600]}"
        ) from None
    if hasattr(model, "predict_proba"):
        expected = [model.predict(table), model.predict_proba(table)]
    else:
        raw = table
        if type(model).__name__ == "Booster" and framework == "xgboost":
            import xgboost

            raw = xgboost.DMatrix(table)
        expected = [np.asarray(model.predict(raw))]
        if len(document.graph.output) == 2:
            # A booster by itself gives probabilities where its conversion gives labels and probabilities. One of two
            # classes gives that of the second alone.
            given = expected[0]
            expected = [None, np.stack([1 - given, given], axis=1) if given.ndim == 1 else given]
    return document, [table], expected, made_up


def _torch(model: Any, given: Any, opset: int, step: str) -> tuple[Any, list[Any], list[Any], bool]:
    import torch

    if given is None:
        raise Refused(
            "a PyTorch model does not say what it takes; give --samples: an array, or an object of arrays by name"
        )
    arrays = given if isinstance(given, dict) else {"input": given}
    feed = []
    for value in arrays.values():
        array = np.asarray(value)
        feed.append(array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array)
    model = model.eval()
    tensors = tuple(torch.from_numpy(a) for a in feed)
    with torch.no_grad():
        answer = model(*tensors)
    answers = answer if isinstance(answer, (list, tuple)) else [answer]
    names = list(arrays)
    outputs = [f"output{n}" for n in range(len(answers))] if len(answers) > 1 else ["output"]
    try:
        torch.onnx.export(
            model, tensors, step, input_names=names, output_names=outputs, dynamo=False,
            opset_version=opset or 17, dynamic_axes={name: {0: "batch"} for name in names + outputs},
        )  # fmt: skip
    except Exception as error:
        raise Refused(
            f"torch.onnx cannot convert {type(model).__name__}: {' '.join(str(error).split())[:600]}"
        ) from None
    return None, feed, [a.detach().numpy() for a in answers], False


def _compare(expected: list[Any], session: Any, feed: dict[str, Any]) -> Difference:
    """Compare the first outputs with what the original says; None: it does not say this."""
    apart = Difference()
    outputs = session.get_outputs()
    answers = session.run(None, feed)
    if len(expected) > len(answers):
        raise Refused(f"the converted model has {len(answers)} outputs, the original gives {len(expected)} values")
    for out, want, got in zip(outputs, expected, answers):
        if want is not None:
            apart.add(out.name, want, got)
    return apart
