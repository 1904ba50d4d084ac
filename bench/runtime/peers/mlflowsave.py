"""Writes the two models that MLflow serves into a folder. Usage: mlflowsave.py FOLDER"""

import sys
from pathlib import Path

import mlflow

folder = Path(sys.argv[1])
sys.path.insert(0, str(Path(__file__).parent.parent / "score"))
import model  # noqa: E402


class Echo(mlflow.pyfunc.PythonModel):
    """Gives the rows back."""

    def predict(self, context, model_input, params=None):
        """Answer one request."""
        return model_input


mlflow.pyfunc.save_model(str(folder / "echo"), python_model=Echo(), pip_requirements=[])
mlflow.sklearn.save_model(model.train(), str(folder / "lr"), pip_requirements=[])
