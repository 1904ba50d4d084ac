"""A small model that is read from its file, as most deployments do."""

import json
import os

import joblib
import numpy

model = None


def init():
    """Read the model."""
    global model
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.joblib"))


def run(raw_data):
    """Predict the class of each row."""
    return model.predict(numpy.array(json.loads(raw_data)["data"])).tolist()
