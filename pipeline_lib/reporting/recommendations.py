"""Plain text for the terminal: recommended titles of a few users, and the main figures of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_lib.records import Cases, Catalogue, Rankings
from pipeline_lib.reporting.results_table import format_table, heading

SHOWN_HISTORY = 5
NAME_WIDTH = 70


def format_recommendations(catalogue: Catalogue, user_ids: Sequence[str], cases: Cases, rankings: Rankings,
                           users: Sequence[int], k: int) -> str:
    """Recent history, targets and the first ``k`` items of each user, hits marked with ``*``.

    Args:
        user_ids: of the raw data, by user index.
        users: user indices, shown in this order.

    Raises:
        ValueError: if a user is not among the cases or has no ranked list, or ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for 1 or more items")
    return "\n\n".join("\n".join(_user_lines(catalogue, user_ids, cases, rankings, user, k)) for user in users)


def _user_lines(catalogue: Catalogue, user_ids: Sequence[str], cases: Cases, rankings: Rankings, user: int,
                k: int) -> list[str]:
    case = _row_of(user, user_ids, cases.users, "held-out interactions to rank for")
    ranked = _row_of(user, user_ids, rankings.users, f"ranked list (candidates={rankings.candidates})")
    history, targets = cases.histories[case], cases.targets[case]
    start = rankings.items.offsets[ranked]
    items = rankings.items[ranked][:k]
    scores = rankings.scores[start : start + len(items)]

    shown = ", the latest" if len(history) > SHOWN_HISTORY else ""
    lines = [f"user {user_ids[user]}, history of {len(history)}{shown}:"]
    lines += [f"        {_name(catalogue, item)}" for item in history[-SHOWN_HISTORY:]]
    lines += ["  target:" if len(targets) == 1 else f"  {len(targets)} targets:"]
    lines += [f"        {_name(catalogue, item)}" for item in targets]
    lines += ["  recommended (* hit):"]
    lines += [f"  {'*' if item in targets else ' '} {place:>3} {_name(catalogue, item):<{NAME_WIDTH}} {score:>9.4f}"
              for place, (item, score) in enumerate(zip(items, scores, strict=True), start=1)]
    return lines


def format_metrics(tree: Mapping[str, Any]) -> str:
    """The content of metrics.json as two tables: method beside popularity and random, and the groups of test.

    A run that scored candidates has one table: the method beside popularity.
    """
    if "scoring" in tree:
        columns = {"method": tree["scoring"]["test"], **tree["scoring"]["baseline"]}
        rows = [[name, *(_figure(column, name) for column in columns.values())] for name in columns["method"]]
        return "\n\n".join([heading(tree["run"]["protocol"]), format_table([["test", *columns], *rows])])
    test, baselines = tree["test"], tree["baseline"]
    names = [name for name in test["all"] if name.startswith(("recall@", "ndcg@", "mrr"))]
    names.sort(key=lambda name: ("recall", "ndcg", "mrr").index(name.split("@")[0]))  # stable: ks stay in order
    columns = {"method": test["all"], **baselines}
    compared = [["test", *columns], *([name, *(_figure(column, name) for column in columns.values())]
                                      for name in ("users", *names))]

    ks = [int(name.split("@")[1]) for name in names if name.startswith("recall@")]
    k = 10 if 10 in ks else max(ks, default=10)
    shown = ("users", f"recall@{k}", f"ndcg@{k}", "mrr")
    groups = [["group", *shown], *([group, *(_figure(metrics, name) for name in shown)]
                                   for group, metrics in test.items())]
    return "\n\n".join([heading(tree["run"]["protocol"]), format_table(compared), format_table(groups)])


def _row_of(user: int, user_ids: Sequence[str], users: np.ndarray, what: str) -> int:
    rows = np.flatnonzero(users == user)
    if len(rows) == 0:
        raise ValueError(f"user {user_ids[user]} has no {what}; {len(users)} users have, e.g. "
                         f"{', '.join(user_ids[other] for other in users[:3])}")
    return int(rows[0])


def _name(catalogue: Catalogue, item: int) -> str:
    name = " ".join(catalogue.titles[item].split()) or catalogue.item_ids[item]
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."


def _figure(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "-"
    return str(metrics[name]) if name in ("users", "pairs") else f"{metrics[name]:.4f}"
