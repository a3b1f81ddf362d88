"""Keep the best epoch by a validation figure, and stop when it no longer gets better.

Where nobody is held out to validate on (``split.refit``), nothing is measured: every epoch is trained, the last kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.seeding import numpy_generator


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


def best_figure(rows: Sequence[dict[str, float]], figure: str) -> float:
    """The best validation figure of some epochs, larger being better; -inf where none was validated."""
    sign = -1 if figure == "loss" else 1
    return max((sign * row[f"valid_{figure}"] for row in rows if f"valid_{figure}" in row), default=-np.inf)


def no_better(later: Sequence[dict[str, float]], earlier: Sequence[dict[str, float]], figure: str) -> bool:
    """Whether later epochs were validated, and none of them is better than the best of the earlier ones."""
    return -np.inf < best_figure(later, figure) <= best_figure(earlier, figure)


def validation_rows(rows: np.ndarray, users: int | None, seed: int) -> np.ndarray:
    """A fixed sample of ``users`` of the ``rows`` that can be validated on, in order; None for all of them."""
    if users is None or users >= len(rows):
        return rows
    return np.sort(numpy_generator(seed, "validation users").permutation(rows)[:users])
