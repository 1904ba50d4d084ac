"""The little that conversion needs of a folder that MLflow saved. MLflow itself is not needed."""

from __future__ import annotations

import json
import os
from typing import Any

from .main import Refused

FLAVORS = ("sklearn", "xgboost", "lightgbm", "pytorch")


def find(folder: str) -> str:
    """The folder with the MLmodel file: this one, or its only sub-folder."""
    if os.path.isfile(os.path.join(folder, "MLmodel")):
        return folder
    below = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    if len(below) == 1 and os.path.isfile(os.path.join(below[0], "MLmodel")):
        return below[0]
    raise Refused(f"{folder} has no MLmodel file; give a model file, or a folder that MLflow saved")


def read(folder: str) -> tuple[str, str]:
    """The framework, and the file of the model."""
    import yaml

    with open(os.path.join(folder, "MLmodel"), encoding="utf-8") as text:
        flavors = (yaml.safe_load(text) or {}).get("flavors") or {}
    if "onnx" in flavors:
        raise Refused("the model is ONNX already; deploy it as it is")
    for name in FLAVORS:
        if name not in flavors:
            continue
        flavor = flavors[name] or {}
        if name == "pytorch":
            data = str(flavor.get("model_data", "data"))
            return "torch", _inside(folder, os.path.join(data, "model.pth"))
        default = {"sklearn": "model.pkl", "xgboost": "model.xgb", "lightgbm": "model.lgb"}[name]
        return name, _inside(folder, str(flavor.get("pickled_model") or flavor.get("data") or default))
    known = ", ".join(FLAVORS)
    raise Refused(f"the model has the flavors {', '.join(flavors) or 'none'}; one of {known} is needed")


def _inside(folder: str, name: str) -> str:
    path = os.path.realpath(os.path.join(folder, name))
    if not path.startswith(os.path.realpath(folder) + os.sep) or not os.path.isfile(path):
        raise Refused(f"the MLmodel file names {name}, which is not in the folder")
    return path


def example(folder: str) -> Any:
    """The input that was saved with the model, or None."""
    for name in ("serving_input_example.json", "input_example.json"):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as text:
                value = json.load(text)
            if isinstance(value, dict):
                for wrapper in ("dataframe_split", "inputs", "instances"):
                    if wrapper in value:
                        return value[wrapper]
            return value
    return None
