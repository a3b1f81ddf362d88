"""Metrics by group of users and items: warm, cold, seen, unseen, by popularity, by length of history.

Shapes: n users of a split part, N items, m users of a group.
Source: docs/design.md, section 6. Warm and cold use the lists whose candidates were restricted to that set; all other
groups use the lists over all items. Targets outside a group's items do not count, nor do users left without a target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.evaluation.ranking import mean_metrics, ranking_metrics
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Rankings

HISTORY_BUCKETS = (0, 1, 3, 5, 10, 20, 50)  # the shortest history of each; the last has no upper end


@dataclass(frozen=True)
class GroupScores:
    """``rows (m,)``: which users of the part are in the group; ``metrics``: a name -> ``(m,)`` float64 of them."""

    rows: np.ndarray
    metrics: Mapping[str, np.ndarray]

    def means(self) -> dict[str, float]:
        return mean_metrics(self.metrics)

    def only(self, members: np.ndarray) -> "GroupScores":
        """The users among ``members (n,)`` bool."""
        kept = members[self.rows]
        return GroupScores(self.rows[kept], {name: values[kept] for name, values in self.metrics.items()})


def lists_of(rankings: Rankings, cases: Cases, part: str) -> Ragged:
    """Bring ranked lists into the order of the users they are for.

    Returns:
        n lists, row i for ``cases.users[i]``.

    Raises:
        ValueError: if a user is without a list, has several, or is not among the cases.
    """
    order = np.argsort(rankings.users, kind="stable")
    ranked_users = rankings.users[order]
    where = f"{part} predictions (candidates={rankings.candidates})"
    twice = ranked_users[1:][ranked_users[1:] == ranked_users[:-1]]
    if len(twice):
        raise ValueError(f"{where}: user {twice[0]} has several lists, expected one; re-run decode")
    for users, others, problem in ((cases.users, ranked_users, "has no list"),
                                   (ranked_users, cases.users, f"is not a user of the {part} split")):
        strangers = np.setdiff1d(users, others)
        if len(strangers):
            raise ValueError(f"{where}: user {strangers[0]} {problem} ({len(strangers)} such users); re-run decode")
    return rankings.items.take(order[np.searchsorted(ranked_users, cases.users)])


def restrict_targets(targets: Ragged, members: np.ndarray) -> tuple[np.ndarray, Ragged]:
    """Leave only targets among ``members (N,)`` bool, and only rows that still have one.

    Returns:
        ``(m,)`` the rows that are left, and their targets.
    """
    kept = members[targets.values]
    counts = np.bincount(targets.row_of_value[kept], minlength=len(targets))
    rows = np.flatnonzero(counts)
    return rows, Ragged(targets.values[kept], np.concatenate([[0], counts[rows].cumsum()]))


def score_lists(lists: Ragged, targets: Ragged, ks: Sequence[int], members: np.ndarray | None = None) -> GroupScores:
    """Metrics of n lists, with targets restricted to ``members (N,)`` bool where given."""
    if members is None:
        return GroupScores(np.arange(len(lists)), ranking_metrics(lists, targets, ks))
    rows, kept = restrict_targets(targets, members)
    return GroupScores(rows, ranking_metrics(lists.take(rows), kept, ks))


def score_groups(lists: Mapping[str, Ragged], cases: Cases, warm: np.ndarray, popularity_group: np.ndarray,
                 ks: Sequence[int]) -> dict[str, GroupScores]:
    """Metrics of every group, user by user.

    Args:
        lists: a candidate set -> n lists in the order of ``cases``; ``all`` must be there, ``warm`` and ``cold`` may
            be, and the groups of that name are there with them.
        warm: ``(N,)`` bool.
        popularity_group: ``(N,)`` integers, 1 the most popular to 5.

    Returns:
        ``all``, ``warm`` and ``cold`` where there are lists for them, ``seen``, ``unseen``, ``popularity_1`` to ``_5``.

    Raises:
        ValueError: if the lists over all items are missing, or a restricted list holds an item outside its set.
    """
    if "all" not in lists:
        raise ValueError(f"predictions have candidates {', '.join(lists) or 'none'}, expected all; re-run decode")
    groups = {"all": score_lists(lists["all"], cases.targets, ks)}
    for name, members in (("warm", warm), ("cold", ~warm)):
        if name in lists:
            strangers = lists[name].values[~members[lists[name].values]]
            if len(strangers):
                raise ValueError(f"a list of candidates={name} holds item {strangers[0]}, which is not {name}; "
                                 "re-run decode")
            groups[name] = score_lists(lists[name], cases.targets, ks, members)
    groups["seen"], groups["unseen"] = groups["all"].only(cases.seen), groups["all"].only(~cases.seen)
    for group in range(1, 6):
        groups[f"popularity_{group}"] = score_lists(lists["all"], cases.targets, ks, popularity_group == group)
    return groups


def popularity_rows(groups: Mapping[str, GroupScores]) -> list[dict[str, float]]:
    """A row a popularity group that has users: ``group`` (1 the most popular), ``users`` and the mean metrics."""
    rows = [{"group": group, **groups[f"popularity_{group}"].means()} for group in range(1, 6)]
    return [row for row in rows if row["users"]]


def history_rows(scores: GroupScores, history_lengths: np.ndarray) -> list[dict[str, float]]:
    """A row a bucket of history lengths that has users, shortest first.

    Args:
        scores: metrics of the group ``all``.
        history_lengths: ``(n,)`` items before the targets.

    Returns:
        ``history``, the bucket's shortest length (its longest is one less than the next of ``HISTORY_BUCKETS``),
        ``users`` and the mean metrics.
    """
    bucket_of = np.searchsorted(HISTORY_BUCKETS, history_lengths, side="right") - 1
    rows = [{"history": shortest, **scores.only(bucket_of == bucket).means()}
            for bucket, shortest in enumerate(HISTORY_BUCKETS)]
    return [row for row in rows if row["users"]]


def share_in_history(cases: Cases) -> float:
    """The share of targets that stand in their own user's history: no list without the history can hit them."""
    if len(cases.targets.values) == 0:
        return 0.0
    rows = (cases.histories, cases.targets)
    width = 1 + max(int(part.values.max(initial=0)) for part in rows)
    known, wanted = (part.row_of_value * width + part.values for part in rows)
    return float(np.isin(wanted, known).mean())
