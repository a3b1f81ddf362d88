"""Keep the best epoch by a validation figure, and stop when it no longer gets better."""

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
        """Take in an epoch's validation; True if it is the best so far.

        Raises:
            ValueError: if the figure was not measured.
        """
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


def validation_rows(rows: np.ndarray, users: int | None, seed: int) -> np.ndarray:
    """A fixed sample of ``users`` of the ``rows`` that can be validated on, in order; None for all of them."""
    if users is None or users >= len(rows):
        return rows
    return np.sort(numpy_generator(seed, "validation users").permutation(rows)[:users])
