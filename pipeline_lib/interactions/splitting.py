"""Who and what is held out: leave-one-out, a ratio, whole users, or a split that somebody released.

Every kind only gives each interaction a part; histories, targets, seen and warm follow from the parts in one place.
Shapes: n interactions (of U users, sorted by user, then time), N items.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_lib.interactions.given_split import PARTS, places_in_time
from pipeline_lib.params import SplitParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Split
from pipeline_lib.seeding import numpy_generator

logger = logging.getLogger(__name__)

TRAIN, VALID, TEST = (PARTS[name] for name in ("train", "valid", "test"))
CONTEXT = len(PARTS)  # the history of a user that nothing is trained on


@dataclass(frozen=True)
class _Log:
    """``users``, ``items (n,)`` int32, sorted by user, then time; ``times (n,)`` int64; ``parts (n,)`` int8."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    parts: np.ndarray

    def count(self, rows: np.ndarray) -> np.ndarray:
        """``(U,)``: how many of the rows (a mask) belong to each user."""
        return np.bincount(self.users[rows], minlength=self.num_users)

    @property
    def num_users(self) -> int:
        return int(self.users[-1]) + 1

    @property
    def lengths(self) -> np.ndarray:
        return np.bincount(self.users, minlength=self.num_users)

    @property
    def from_end(self) -> np.ndarray:
        """``(n,)``: how many interactions the user has after this one."""
        return (np.cumsum(self.lengths) - 1)[self.users] - np.arange(len(self.users))

    def take(self, rows: np.ndarray) -> "_Log":
        return _Log(self.users[rows], self.items[rows], self.times[rows], self.parts[rows])


def split_interactions(interactions: pa.Table, num_items: int, options: SplitParams, *, order: str,
                       given: pl.DataFrame | None = None, seed: int) -> Split:
    """Split interactions into what may be trained on and the users to rank for.

    Kinds:
        leave_one_out: the last item is the test target, the one before it the validation target, and part of the test
            history; users with fewer than 3 interactions are trained on only.
        ratio: by time, one cut for all interactions at the quantiles of ``ratios`` (SETRec); by history, one in each
            user's history. Several targets a user.
        by_user: some users are for test, some for validation, the others for training; held-out users have their last
            item as target and all before it as history (STORE).
        given: the parts of a file. Without a valid part, each user's last training item becomes the validation target
            if another is left. Where neither file nor data have an order, histories get a random one: that of the rows
            of a file means nothing, and what learns from it is misled.

    ``max_history`` cuts histories before all this. ``unseen_user_share`` of the users, those with the shortest
    histories that can be evaluated, are taken out of training and validation: all but their test targets is history.
    ``refit`` then trains on all that is held out for validation, where nobody is left; test cases stay as they are.

    Args:
        interactions: as ``artifacts.INTERACTIONS``.
        num_items: N.
        order: ``ingest.order``: ``time``, ``position`` or ``none``.
        given: as ``read_given_split`` returns it, for the kind ``given``.

    Returns:
        Users rising, histories and training lists in time order, repeats kept. Groups of popularity hold equal numbers
        of warm items; cold items are in the last.

    Raises:
        ValueError: if a part is empty, the interactions are not in order, or ``max_history`` cuts what has no order.
    """
    rng = numpy_generator(seed, "split")
    log = (_given_log(interactions, num_items, given, order, rng) if options.kind == "given" else
           _Log(*(interactions[name].to_numpy() for name in ("user", "item", "timestamp")),
                np.zeros(len(interactions), np.int8)))
    if not len(log.users) or (np.diff(log.users) < 0).any():
        raise ValueError("interactions are empty or not sorted by user; re-run ingest")
    if options.max_history is not None:
        if order == "none" and "position" not in given.columns:
            raise ValueError(f"params: split.max_history={options.max_history} keeps the most recent interactions, but with "
                             "ingest.order=none none is more recent, and held-out ones would go with the others; leave it "
                             "null, or add a column position to split.file")
        log = log.take(log.from_end < options.max_history)
    log = replace(log, parts=_parts(log, options, rng))
    if options.unseen_user_share > 0:
        log = replace(log, parts=_without_training(log, options, rng))
    if options.refit:
        log = replace(log, parts=_with_validation_trained(log, options))
    return _assemble(log, num_items, options)


def _parts(log: _Log, options: SplitParams, rng: np.random.Generator) -> np.ndarray:
    """``(n,)`` int8."""
    if options.kind == "leave_one_out":
        held_out = np.array([TEST, VALID, TRAIN], np.int8)[np.minimum(log.from_end, 2)]
        return np.where((log.lengths >= 3)[log.users], held_out, np.int8(TRAIN))
    if options.kind == "ratio":
        return _ratio_parts(log, options)
    if options.kind == "by_user":
        return _user_parts(log, options, rng)
    return log.parts if (log.parts == VALID).any() else _with_validation(log)


def _ratio_parts(log: _Log, options: SplitParams) -> np.ndarray:
    shares = np.cumsum(options.ratios)[:2] + 1e-9  # 0.1 + 0.2 must not fall short of 0.3
    if options.by == "time":
        cuts = np.floor(shares * len(log.times)).astype(int).clip(max=len(log.times) - 1)
        return np.searchsorted(np.partition(log.times, cuts)[cuts], log.times, side="right").astype(np.int8)
    place = log.lengths[log.users] - 1 - log.from_end
    cuts = np.floor(shares[:, None] * log.lengths).astype(int)  # (2, U)
    return (place >= cuts[:, log.users]).sum(axis=0).astype(np.int8)


def _user_parts(log: _Log, options: SplitParams, rng: np.random.Generator) -> np.ndarray:
    there = log.lengths > 0
    able = rng.permutation(np.flatnonzero(log.lengths > options.min_history))
    num_test, num_valid = (round(share * there.sum()) for share in (options.test_users, options.valid_users))
    target = np.full(log.num_users, TRAIN, dtype=np.int8)
    target[able[:num_test]] = TEST
    target[able[num_test : num_test + num_valid]] = VALID
    parts = target[log.users]
    parts[(parts != TRAIN) & (log.from_end > 0)] = CONTEXT
    return parts


def _with_validation(log: _Log) -> np.ndarray:
    """Hold out the last training item of each user that has another."""
    parts, rows = log.parts.copy(), np.flatnonzero(log.parts == TRAIN)
    users = log.users[rows]
    last = np.append(users[1:] != users[:-1], True) & (log.count(log.parts == TRAIN)[users] >= 2)
    parts[rows[last]] = VALID
    return parts


def _without_training(log: _Log, options: SplitParams, rng: np.random.Generator) -> np.ndarray:
    num_targets = log.count(log.parts == TEST)
    if options.kind == "leave_one_out":
        num_targets = np.minimum(log.lengths, 1)  # without training, two interactions are enough
    able = rng.permutation(np.flatnonzero((num_targets > 0) & (log.lengths - num_targets >= options.min_history)))
    able = able[np.argsort(log.lengths[able], kind="stable")]
    unseen = np.zeros(log.num_users, dtype=bool)
    unseen[able[: round(options.unseen_user_share * (log.lengths > 0).sum())]] = True
    parts = log.parts.copy()
    if options.kind == "leave_one_out":
        parts[unseen[log.users] & (log.from_end == 0)] = TEST
    parts[unseen[log.users] & (parts != TEST)] = CONTEXT
    return parts


def _with_validation_trained(log: _Log, options: SplitParams) -> np.ndarray:
    """Train on validation targets, and on the histories of users who are held out for validation as a whole."""
    held_out = log.parts == VALID
    if not held_out.any():
        raise ValueError(_why_empty("valid", log, held_out, options))
    whole = (log.count(held_out) > 0)[log.users] & (log.parts == CONTEXT)
    return np.where(held_out | whole, np.int8(TRAIN), log.parts)


def _given_log(interactions: pa.Table, num_items: int, given: pl.DataFrame | None, order: str,
               rng: np.random.Generator) -> _Log:
    """The rows of a split file by user, then position, the place of the pair in the interactions, or by chance."""
    if given is None:
        raise ValueError("params: split.kind=given needs a table; set split.file to a file inside ingest.path")
    users, items = given["user"].to_numpy(), given["item"].to_numpy()
    if "position" in given.columns:
        times = given["position"].to_numpy()
    elif order == "none":
        times = rng.permutation(len(given))
    else:
        times = places_in_time(interactions, num_items, given)
    sort = np.lexsort((times, users))
    return _Log(users[sort], items[sort], times[sort], given["part"].to_numpy()[sort])


def _assemble(log: _Log, num_items: int, options: SplitParams) -> Split:
    trained = log.parts == TRAIN
    num_trained = log.count(trained)
    users = np.flatnonzero(num_trained)
    cases = {}
    for name, part in (("valid", VALID), ("test", TEST)):
        context = trained | (log.parts == CONTEXT) | (log.parts == VALID) & (part == TEST)
        cases[name] = _cases(log, context, log.parts == part, num_trained > 0, options.min_history)
        if not len(cases[name]) and not (options.refit and part == VALID):
            raise ValueError(_why_empty(name, log, log.parts == part, options))
    train_count = np.bincount(log.items[trained], minlength=num_items).astype(np.int32)
    logger.info("split %s: %d users (%d interactions) to train on, %d to validate, %d to test, %d of %d items cold",
                options.kind, len(users), trained.sum(), len(cases["valid"]), len(cases["test"]),
                (train_count == 0).sum(), num_items)
    return Split(users.astype(np.int32), _rows(log.items[trained], num_trained[users]), cases["valid"], cases["test"],
                 train_count, train_count > 0, popularity_groups(train_count))


def popularity_groups(train_count: np.ndarray) -> np.ndarray:
    """Five groups of equal numbers of warm items, 1 the most popular; ties by index, cold items in group 5 (SETRec).

    Args:
        train_count: ``(N,)`` whole numbers.

    Returns:
        ``(N,)`` int8.
    """
    groups = np.full(len(train_count), 5, dtype=np.int8)
    warm = np.argsort(-train_count, kind="stable")[: (train_count > 0).sum()]
    groups[warm] = 1 + np.arange(len(warm)) * 5 // max(len(warm), 1)
    return groups


def _cases(log: _Log, context: np.ndarray, target: np.ndarray, seen: np.ndarray, min_history: int) -> Cases:
    num_targets, num_context = log.count(target), log.count(context)
    kept = (num_targets > 0) & (num_context >= min_history)
    users, of_kept = np.flatnonzero(kept), kept[log.users]
    return Cases(users.astype(np.int32), _rows(log.items[context & of_kept], num_context[users]),
                 _rows(log.items[target & of_kept], num_targets[users]), seen[users])


def _rows(values: np.ndarray, lengths: np.ndarray) -> Ragged:
    return Ragged(values.astype(np.int32, copy=False), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _why_empty(name: str, log: _Log, target: np.ndarray, options: SplitParams) -> str:
    lengths = log.lengths[log.lengths > 0]
    found = f"{len(lengths)} users with {lengths.min()} to {lengths.max()} interactions"
    if target.any():
        return (f"split.kind={options.kind} leaves nobody to evaluate for {name}: every history before a target is "
                f"shorter than split.min_history={options.min_history} ({found}); lower split.min_history")
    remedy = {"leave_one_out": "a user needs at least 3 interactions, after the cut to split.max_history",
              "ratio": f"raise its share in split.ratios={list(options.ratios)}",
              "by_user": f"raise split.{name}_users, or lower split.min_history={options.min_history}",
              "given": f"the split file has no row for {name} that can be used"}[options.kind]
    return f"split.kind={options.kind} gives no {name} target ({found}); {remedy}"
