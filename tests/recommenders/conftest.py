"""What tests of several recommenders need: a split of short walks, an accelerator, a training that is killed."""

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Split
from pipeline_lib.training.device import make_accelerator


def split_of(walks: Sequence[Sequence[int]], warm: np.ndarray, users: np.ndarray | None = None) -> Split:
    """The last item of each walk is for testing, the one before for validation; ``warm (N,)`` bool."""
    users = np.arange(len(walks), dtype=np.int32) if users is None else users

    def cases(end):
        return Cases(users, Ragged.from_rows([walk[:end] for walk in walks]),
                     Ragged.from_rows([[walk[end]] for walk in walks]), np.ones(len(walks), dtype=bool))

    return Split(users, Ragged.from_rows([walk[:-2] for walk in walks]), cases(-2), cases(-1),
                 np.ones(len(warm), dtype=np.int32), warm, np.ones(len(warm), dtype=np.int8))


def circular_walks(starts: np.ndarray, num_items: int) -> list[list[int]]:
    """Eight steps each of 0 -> 1 -> 2 -> ... -> 0."""
    return [[(start + step) % num_items for step in range(8)] for start in starts]


@pytest.fixture(scope="session")
def accelerator():
    return make_accelerator("fp32")


@pytest.fixture
def train_through_a_kill(monkeypatch, tmp_path):
    """Checks that a training that is killed, and started again, ends with the same bits as an undisturbed one."""

    def check(train, place, name, at, undisturbed=None):
        """``train(folder)`` is killed at a call of ``place.name``, the ``at``-th; returns all calls' arguments."""
        whole = train(tmp_path / "whole") if undisturbed is None else undisturbed
        real, calls = getattr(place, name), []

        def killed(*arguments, **options):
            calls.append(arguments)
            if len(calls) == at:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / "killed")
            again = train(tmp_path / "killed")
        assert again.training == whole.training
        assert again.tensors.keys() == whole.tensors.keys()
        assert all(np.array_equal(value, again.tensors[name]) for name, value in whole.tensors.items())
        assert np.array_equal(again.item_codes, whole.item_codes)
        return calls

    return check
