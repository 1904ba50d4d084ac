"""Train a classifier of iris flowers and save it with MLflow: writes the folder model."""

import shutil
from importlib.metadata import version
from pathlib import Path

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

PACKAGES = ("mlflow-skinny", "scikit-learn", "pandas", "numpy", "cloudpickle")


def main() -> None:
    rows, species = load_iris(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=1000).fit(rows, species)
    print(f"accuracy on the training data: {model.score(rows, species):.3f}")
    target = Path(__file__).parent / "model"
    if target.exists():
        shutil.rmtree(target)
    mlflow.sklearn.save_model(
        model,
        str(target),
        signature=infer_signature(rows, model.predict(rows)),
        input_example=rows.head(2),
        serialization_format="cloudpickle",
        pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
    )


if __name__ == "__main__":
    main()
