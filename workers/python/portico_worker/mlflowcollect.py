"""What is collected of an MLflow model without any code: its inputs and its outputs, as tables, joined by a context."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from . import monitoring
from .log import LOGGER

INPUTS, OUTPUTS = "model_inputs", "model_outputs"

_log = logging.getLogger(LOGGER + ".collector")


class Pair:
    """The collectors of a model that are enabled."""

    def __init__(self) -> None:
        enabled = {name.lower() for name in json.loads(os.environ[monitoring.CONFIG])}
        self._collectors = {
            name: monitoring.Collector(name=name, on_error=_tell) for name in (INPUTS, OUTPUTS) if name in enabled
        }

    def collect(self, inputs: Any, outputs: Any, request_id: str) -> None:
        """Collect what the model took and gave for one request. Nothing that fails here fails the request."""
        context = monitoring.get_context()
        for name, value in ((INPUTS, inputs), (OUTPUTS, outputs)):
            collector = self._collectors.get(name)
            if collector is None:
                continue
            try:
                collector.keep(_table(value), context, request_id)
            except Exception as error:
                _tell(error)


def _tell(error: Exception) -> None:
    _log.warning("not collected: %s: %s", type(error).__name__, error)


def _table(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return value
    if isinstance(value, pd.Series):
        return value.to_frame()
    if isinstance(value, (str, bytes, int, float, bool)) or value is None:
        value = [value]
    if isinstance(value, dict) and not all(
        hasattr(part, "__len__") and not isinstance(part, str) for part in value.values()
    ):
        value = [value]
    if getattr(value, "ndim", 0) > 2:  # of each example, all that it holds is one cell
        value = {"data": [part.tolist() for part in value]}
    return pd.DataFrame(value)
