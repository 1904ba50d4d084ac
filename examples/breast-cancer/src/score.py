"""Score biopsies: 30 measurements each, in the order of scikit-learn's breast cancer data set."""

import json
import logging
import os
from pathlib import Path

import joblib
import numpy as np

FEATURES = 30
LABELS = ("malignant", "benign")

model = None


def init():
    """Load the one model file that the deployment names."""
    global model
    files = sorted(Path(os.environ["AZUREML_MODEL_DIR"]).rglob("*.joblib"))
    if len(files) != 1:
        raise RuntimeError(f"expected one .joblib file in the model, found {[f.name for f in files]}")
    model = joblib.load(files[0])
    logging.info("loaded %s", files[0].name)


def run(raw_data):
    """Give a label and the probability of a benign tumour for every row of {"data": [[...], ...]}."""
    rows = np.asarray(json.loads(raw_data)["data"], dtype=float)
    if rows.ndim != 2 or rows.shape[1] != FEATURES:
        raise ValueError(f"data must be rows of {FEATURES} numbers, got the shape {rows.shape}")
    benign = model.predict_proba(rows)[:, 1]
    return {
        "model": os.environ.get("MODEL_NAME", "unknown"),
        "predictions": [LABELS[int(p >= 0.5)] for p in benign],
        "probability_benign": [round(float(p), 4) for p in benign],
    }
