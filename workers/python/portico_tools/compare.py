"""How far two answers are apart."""

from __future__ import annotations

from typing import Any

import numpy as np


class Difference:
    """The greatest difference of numbers, relative to 1 + the greater of their sizes, and the share of equal labels."""

    def __init__(self) -> None:
        self.greatest = 0.0
        self.labels = 0
        self.equal = 0
        self.shapes: list[str] = []

    def add(self, name: str, one: Any, other: Any) -> None:
        """Compare two values of one output. A sequence of maps, as classifiers give, is compared by its keys."""
        if isinstance(one, list) and one and isinstance(one[0], dict):
            keys = sorted(one[0])
            one = [[row[key] for key in keys] for row in one]
            other = [[row.get(key, np.nan) for key in keys] for row in other] if isinstance(other, list) else other
        a, b = np.asarray(one), np.asarray(other)
        if a.shape != b.shape:
            if a.size != b.size:
                self.shapes.append(f"{name}: {list(a.shape)} and {list(b.shape)}")
                return
            b = b.reshape(a.shape)
        if np.issubdtype(a.dtype, np.floating) and np.issubdtype(b.dtype, np.number):
            self._numbers(a.astype(np.float64), b.astype(np.float64))
            return
        self.labels += a.size
        self.equal += int(np.sum(a.astype(str) == b.astype(str)))

    def _numbers(self, a: Any, b: Any) -> None:
        if not a.size:
            return
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(a - b) / (1.0 + np.maximum(np.abs(a), np.abs(b))))
        # One that is not finite beside one that is: as far apart as can be.
        apart = np.where(np.isfinite(apart), apart, 1.0)
        self.greatest = max(self.greatest, float(apart.max()))

    def report(self) -> dict[str, Any]:
        """What people read of it."""
        out: dict[str, Any] = {"max_difference": self.greatest}
        if self.labels:
            out["equal_labels"] = self.equal / self.labels
        return out

    def fault(self, tolerance: float, labels: bool) -> str:
        """What is beyond the tolerance, or ''. Shapes must always be the same."""
        if self.shapes:
            return "the outputs have different shapes: " + "; ".join(self.shapes)
        if tolerance >= 0 and self.greatest > tolerance:
            return f"the outputs differ by {self.greatest:.3g}, more than the tolerance {tolerance:g}"
        if labels and self.equal != self.labels:
            return f"{self.labels - self.equal} of {self.labels} labels differ"
        return ""
