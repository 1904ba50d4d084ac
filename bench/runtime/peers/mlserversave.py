"""Writes what MLServer serves into a folder. Usage: mlserversave.py FOLDER"""

import json
import sys
from pathlib import Path

import joblib

folder = Path(sys.argv[1])
sys.path.insert(0, str(Path(__file__).parent.parent / "score"))
import model  # noqa: E402

for name, settings in {
    "echo": {"implementation": "mlserverecho.Echo"},
    "lr": {"implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./model.joblib"}},
}.items():
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "model-settings.json").write_text(json.dumps({"name": name, **settings}))
joblib.dump(model.train(), folder / "lr" / "model.joblib")
