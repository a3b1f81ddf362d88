"""Candidates that are scored one by one: items that a user took, among items that were shown or sampled beside them.

Nothing of a case but its history and its targets decides what may stand beside it, so training learns nothing of what
is held out. Rows are sorted by user, then item: where a row stands says nothing of its label.

Shapes: n cases, m candidates, N items.
Source: Liu et al. 2024 (STORE), section 4: candidates of MIND are those of impressions; sampling is for other data.
"""

import logging
from dataclasses import dataclass

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Split
from pipeline_lib.seeding import numpy_generator

logger = logging.getLogger(__name__)
SOURCES = ("sampled", "impressions")
Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Impressions:
    """What was shown together: ``impressions``, ``users``, ``items (m,)`` whole numbers, ``clicked (m,)`` bool."""

    impressions: np.ndarray
    users: np.ndarray
    items: np.ndarray
    clicked: np.ndarray


class FreeItems:
    """The items that each of n rows does not know, in rising order: ``counts (n,)``, and which one stands at a rank.

    Args:
        known: ``(m,)`` row * N + item, rising, each once.
    """

    def __init__(self, known: np.ndarray, num_rows: int, num_items: int) -> None:
        rows = known // num_items
        counts = np.bincount(rows, minlength=num_rows)
        self.num_items, self.counts = num_items, num_items - counts
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        # how many free items stand before each known one: what turns a rank among free items into an item
        before = known % num_items - (np.arange(len(known)) - self.starts[rows])
        self.keys = rows * (num_items + 1) + before

    def items_at(self, rows: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        passed = np.searchsorted(self.keys, rows * (self.num_items + 1) + ranks, side="right")
        return ranks + passed - self.starts[rows]


def draw_candidates(split: Split, source: str, *, negatives: int, users: int | None, shown: Impressions | None = None,
                    seed: int) -> dict[str, Labelled]:
    """Candidates of each part: of training users their last item is the target, and what came before it the history.

    Args:
        source: ``sampled``, or ``impressions``, which need ``shown``.
        negatives: unwanted candidates of a case at most.
        users: cases of a part at most, drawn at random; None for all.

    Returns:
        ``train``, ``valid`` and ``test`` -> users and items ``(m,)`` int32, labels ``(m,)`` int8; empty for ``valid``
        where the split holds nobody out for it.

    Raises:
        ValueError: for options that cannot be, or a part without candidates of both labels.
    """
    if source not in SOURCES:
        raise ValueError(f"params: split.candidates.source is {source}; known: {', '.join(SOURCES)}, or null for none")
    if source == "impressions" and shown is None:
        raise ValueError("params: split.candidates.source=impressions needs data with impressions "
                         "(ingest.format=mind); set it to sampled")
    if negatives < 1 or users is not None and users < 1:
        raise ValueError(f"params: split.candidates.negatives is {negatives} and users {users}; expected 1 or more "
                         "(users also null, for all)")
    parts = {"train": training_cases(split), "valid": split.valid, "test": split.test}
    drawn = {}
    for part, cases in parts.items():
        generator = numpy_generator(seed, f"candidates of {part}")
        if source == "impressions":
            cases = cases.take(np.flatnonzero(np.isin(cases.users, shown.users)))
        if users is not None and users < len(cases):
            cases = cases.take(np.sort(generator.permutation(len(cases))[:users]))
        drawn[part] = (sample_candidates(cases, split.num_items, negatives, generator) if source == "sampled" else
                       shown_candidates(cases, shown, split.num_items, negatives, generator))
        labels = drawn[part][2]
        if part in ("train", *split.held_out) and not 0 < labels.sum() < len(labels):
            raise ValueError(f"split.candidates.source={source} gives {len(labels)} candidates for {part}, of which "
                             f"{int(labels.sum())} are wanted; both labels are needed")
        logger.info("%s: %d candidates of %d of %d users, %d of them wanted", part, len(labels),
                    len(np.unique(drawn[part][0])), len(parts[part]), labels.sum())
    return drawn


def training_cases(split: Split) -> Cases:
    """Training users with two items or more: the last one is the target."""
    rows = np.flatnonzero(split.train.lengths >= 2)
    train = split.train.take(rows)
    last = np.zeros(len(train.values), dtype=bool)
    last[train.offsets[1:] - 1] = True
    steps = np.arange(len(rows) + 1)
    return Cases(split.train_users[rows], Ragged(train.values[~last], train.offsets - steps),
                 Ragged(train.values[last], steps), np.ones(len(rows), dtype=bool))


def sample_candidates(cases: Cases, num_items: int, negatives: int, generator: np.random.Generator) -> Labelled:
    """Each case's targets, and items drawn uniformly, none twice, from those in neither its history nor its targets.

    A case with fewer such items than ``negatives`` gets all of them.
    """
    targets, known = _pairs(cases.targets, num_items), _known(cases, num_items)
    free = FreeItems(known, len(cases), num_items)
    case, rank = _distinct_ranks(free.counts, negatives, generator)
    return _labelled(cases, num_items, targets, case * num_items + free.items_at(case, rank))


def shown_candidates(cases: Cases, shown: Impressions, num_items: int, negatives: int,
                     generator: np.random.Generator) -> Labelled:
    """Targets that were clicked in an impression, and at most ``negatives`` items shown there that were not.

    Items of the history, and clicked ones that are no targets, are left out; cases whose targets were clicked in no
    impression, or beside nothing else, have no candidates.
    """
    row_of_user = np.full(1 + max(shown.users.max(initial=0), cases.users.max(initial=0)), -1)
    row_of_user[cases.users] = np.arange(len(cases))
    row = row_of_user[shown.users]
    pair = row * num_items + shown.items
    chosen = (row >= 0) & shown.clicked & np.isin(pair, _pairs(cases.targets, num_items))
    beside = (row >= 0) & np.isin(shown.impressions, shown.impressions[chosen])
    refused = np.union1d(_known(cases, num_items), pair[beside & shown.clicked])
    unwanted = np.setdiff1d(pair[beside], refused)
    unwanted = unwanted[np.lexsort((generator.random(len(unwanted)), unwanted // num_items))]
    case = unwanted // num_items
    unwanted = unwanted[np.arange(len(case)) - np.searchsorted(case, case) < negatives]
    wanted = np.unique(pair[chosen])
    return _labelled(cases, num_items, wanted[np.isin(wanted // num_items, unwanted // num_items)], unwanted)


def _pairs(rows: Ragged, num_items: int) -> np.ndarray:
    """Row and item of each value in one number, rising, each once."""
    return np.unique(rows.row_of_value * num_items + rows.values)


def _known(cases: Cases, num_items: int) -> np.ndarray:
    return np.union1d(_pairs(cases.histories, num_items), _pairs(cases.targets, num_items))


def _distinct_ranks(free: np.ndarray, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` different whole numbers below ``free (n,)`` for each row, or all of them where there are fewer.

    Source: Floyd's algorithm, in Bentley and Floyd 1987, "A sample of brilliance"; a column a step, rows side by side.
    """
    ranks = np.full((len(free), count), -1)
    for step in range(count):
        limit = free - count + step
        open_ = limit >= 0
        drawn = generator.integers(0, np.maximum(limit, 0) + 1)
        taken = (ranks == drawn[:, None]).any(axis=1)
        ranks[open_, step] = np.where(taken, limit, drawn)[open_]
    rows, places = np.nonzero(ranks >= 0)
    return rows, ranks[rows, places]


def _labelled(cases: Cases, num_items: int, wanted: np.ndarray, unwanted: np.ndarray) -> Labelled:
    pairs = np.concatenate([wanted, unwanted])
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [len(wanted), len(unwanted)])
    order = np.lexsort((pairs % num_items, cases.users[pairs // num_items]))
    pairs, labels = pairs[order], labels[order]
    return cases.users[pairs // num_items].astype(np.int32), (pairs % num_items).astype(np.int32), labels
