"""Joined requests to an MLflow model: rows of several callers in one table, predicted once, and taken apart again.

Only what is certain to belong together is put together: tables with the same columns and types, arrays with the same
shape but for the number of rows, the same params. Only predictions that come row by row are taken apart.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .http1 import Request
from .log import LOGGER

if TYPE_CHECKING:
    from .mlflowmodel import Model, Steps

_log = logging.getLogger(LOGGER)


class Question:
    """What one request asks of the model."""

    __slots__ = ("data", "index", "params", "rows", "steps")

    def __init__(self, index: int, steps: Steps, data: Any, params: Any) -> None:
        self.index = index
        self.steps = steps
        self.data = data
        self.params = params
        self.rows = 0


class Batch:
    """Scores joined requests; a joint.Joint."""

    def __init__(self, model: Model) -> None:
        self._model = model
        # Numbers of rows for which as many predictions came. That a model answers row by row is believed after two
        # of them: three outputs for three rows may be one for each, or three that every call has.
        self._seen: set[int] = set()
        self._alone = False  # the model does not answer row by row, or fails on joined rows

    def take(self, request: Request) -> Steps:
        """See joint.Joint."""
        return self._model.steps(request)

    def run(self, items: list[Steps]) -> list[Any]:
        """See joint.Joint."""
        results: list[Any] = [None] * len(items)
        groups: dict[Any, list[Question]] = {}
        for index, steps in enumerate(items):
            try:
                data, params = next(steps)
            except StopIteration as done:
                results[index] = done.value
                continue
            except Exception as error:
                results[index] = error
                continue
            question = Question(index, steps, data, params)
            question.rows, kind = _kind(data)
            key = (kind, json.dumps(params, sort_keys=True)) if kind and not self._alone else index
            groups.setdefault(key, []).append(question)
        for group in groups.values():
            self._answer(group, results)
        return results

    def _answer(self, group: list[Question], results: list[Any]) -> None:
        parts, raised = self._together(group) if len(group) > 1 and not self._alone else (None, False)
        if parts is not None:
            for question, part in zip(group, parts):
                results[question.index] = self._model.settle(question.steps, part)
            return
        for question in group:
            try:
                predictions = self._model.predict(question.data, question.params)
            except Exception as error:
                raised = False  # for a reason
                results[question.index] = self._model.settle(question.steps, None, error)
                continue
            self._note(question, predictions)
            results[question.index] = self._model.settle(question.steps, predictions)
        if raised:
            self._give_up("it fails on the rows of several requests, and on none of them alone")

    def _together(self, group: list[Question]) -> tuple[list[Any] | None, bool]:
        """The predictions for each question of a group. None: they must be asked alone; whether the model raised."""
        counts = [question.rows for question in group]
        total = sum(counts)
        try:
            predictions = self._model.predict(_joined([question.data for question in group]), group[0].params)
        except Exception as error:
            text = "the model raised %s for %d requests together: each is predicted alone now"
            _log.warning(text, type(error).__name__, len(group))
            return None, True
        if not _by_row(predictions, total):
            self._give_up(f"its predictions for {total} rows are not {total}")
            return None, False
        self._saw(total)
        return (_apart(predictions, counts) if len(self._seen) > 1 else None), False

    def _note(self, question: Question, predictions: Any) -> None:
        if question.rows and not self._alone:
            if _by_row(predictions, question.rows):
                self._saw(question.rows)
            else:
                self._give_up(f"its predictions for {question.rows} rows are not {question.rows}")

    def _saw(self, rows: int) -> None:
        if len(self._seen) < 2:
            self._seen.add(rows)

    def _give_up(self, why: str) -> None:
        self._alone = True
        _log.warning("the model cannot be batched: %s. Requests are predicted one by one from now on", why)


def _kind(data: Any) -> tuple[int, Any]:
    """Rows of the data, and what must be equal for them to be joined with others; 0 and None: they cannot be."""
    if isinstance(data, pd.DataFrame):
        if len(data) == 0 or not data.index.equals(pd.RangeIndex(len(data))):
            return 0, None  # the model may look at an index of the caller's own
        return len(data), ("table", tuple(map(repr, data.columns)), tuple(map(str, data.dtypes)))
    if isinstance(data, np.ndarray):
        if data.ndim == 0 or len(data) == 0:
            return 0, None
        return len(data), ("array", data.dtype.str, data.shape[1:])
    if isinstance(data, dict) and data:
        parts = [(name, *_kind(value)) for name, value in data.items() if isinstance(value, np.ndarray)]
        rows = {part[1] for part in parts}
        if len(parts) == len(data) and len(rows) == 1 and 0 not in rows:
            return rows.pop(), ("arrays", tuple(sorted((name, kind) for name, _, kind in parts)))
    return 0, None


def _joined(data: list[Any]) -> Any:
    """Data of one kind as one."""
    if isinstance(data[0], pd.DataFrame):
        return pd.concat(data, ignore_index=True)
    if isinstance(data[0], dict):
        return {name: np.concatenate([one[name] for one in data]) for name in data[0]}
    return np.concatenate(data)


def _by_row(predictions: Any, rows: int) -> bool:
    """Whether there are as many predictions as rows."""
    if isinstance(predictions, dict):
        return bool(predictions) and all(_by_row(part, rows) for part in predictions.values())
    if isinstance(predictions, np.ndarray):
        return predictions.ndim > 0 and len(predictions) == rows
    return isinstance(predictions, (pd.DataFrame, pd.Series, list)) and len(predictions) == rows


def _apart(predictions: Any, counts: list[int]) -> list[Any]:
    """Predictions by row, in parts of so many rows."""
    parts = []
    at = 0
    for rows in counts:
        parts.append(_cut(predictions, at, at + rows))
        at += rows
    return parts


def _cut(predictions: Any, first: int, last: int) -> Any:
    if isinstance(predictions, dict):
        return {name: _cut(part, first, last) for name, part in predictions.items()}
    if isinstance(predictions, (pd.DataFrame, pd.Series)):
        return predictions.iloc[first:last].reset_index(drop=True)
    return predictions[first:last]
