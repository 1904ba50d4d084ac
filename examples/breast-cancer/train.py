"""Train the two models of this example on the data set that ships inside scikit-learn."""

import argparse
import json
from pathlib import Path

import joblib
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main():
    """Write models/blue.joblib and models/green.joblib, and say how good they are on data they have not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models", help="folder for the models")
    parser.add_argument("--request", type=Path, help="also write a request with a few unseen rows to this file")
    args = parser.parse_args()

    features, labels = load_breast_cancer(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        features, labels, test_size=0.25, random_state=7, stratify=labels
    )
    models = {
        "blue": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "green": GradientBoostingClassifier(random_state=7),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        model.fit(train_x, train_y)
        joblib.dump(model, args.out / f"{name}.joblib")
        accuracy = accuracy_score(test_y, model.predict(test_x))
        print(f"{name}: trained on {len(train_y)} rows, accuracy {accuracy:.3f} on {len(test_y)} others")
    if args.request:
        args.request.write_text(json.dumps({"data": test_x[:3].tolist()}) + "\n")


if __name__ == "__main__":
    main()
