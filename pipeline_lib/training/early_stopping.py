"""Keep the best epoch by a validation figure, and stop when it no longer gets better.

Where nobody is held out to validate on (``split.refit``), nothing is measured: every epoch is trained, the last kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class EarlyStopping:
    """``figure`` is ``loss`` (lower is better) or a ranking metric (higher is better)."""

    figure: str
    patience: int
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0

    def update(self, epoch: int, measured: dict[str, float]) -> bool:
        """Take in an epoch's validation; True if it is the best so far, or if nothing is measured.

        Raises:
            ValueError: if other figures were measured, but not this one.
        """
        if not measured:
            self.best_epoch = epoch
            return True
        if self.figure not in measured:
            raise ValueError(f"params: training.early_stopping is {self.figure}; known here: {', '.join(measured)}")
        value = measured[self.figure] * (-1 if self.figure == "loss" else 1)
        if self.best is None or value > self.best:
            self.best, self.best_epoch, self.waited = value, epoch, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.waited >= self.patience


def kept_row(rows: Sequence[dict[str, float]], figure: str) -> dict[str, float]:
    """The row of the epoch that was kept: the first of the best by ``figure``, the last where none was validated."""
    validated = [row for row in rows if f"valid_{figure}" in row]
    return max(validated, key=lambda row: best_figure([row], figure), default=rows[-1])


def training_summary(rows: Sequence[dict[str, float]], figure: str) -> dict[str, Any]:
    """What an embedding source says of its training: the kept epoch, its validation figures, and all rows."""
    kept = kept_row(rows, figure)
    validation = {name.removeprefix("valid_"): value for name, value in kept.items() if name.startswith("valid_")}
    return {"best_epoch": kept["epoch"], "validation": validation, "training": list(rows)}


def best_figure(rows: Sequence[dict[str, float]], figure: str) -> float:
    """The best validation figure of some epochs, larger being better; -inf where none was validated."""
    sign = -1 if figure == "loss" else 1
    return max((sign * row[f"valid_{figure}"] for row in rows if f"valid_{figure}" in row), default=-np.inf)


def no_better(later: Sequence[dict[str, float]], earlier: Sequence[dict[str, float]], figure: str) -> bool:
    """Whether later epochs were validated, and none of them is better than the best of the earlier ones."""
    return -np.inf < best_figure(later, figure) <= best_figure(earlier, figure)
