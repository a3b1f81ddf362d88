"""All figures of a run: the method by group, its code-level figures, the baselines, and the tree of metrics.json.

Shapes: n users of a split part, N items, L levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline_lib.evaluation.baselines import rank_at_random, rank_by_popularity
from pipeline_lib.evaluation.code_level import collision_share, score_identifiers
from pipeline_lib.evaluation.groups import GroupScores, lists_of, score_groups, score_lists
from pipeline_lib.records import Rankings, Split

DECIMALS = 6


@dataclass(frozen=True)
class Evaluation:
    """Figures user by user, so that two runs can be compared by paired tests.

    ``groups``: each part of ``split.held_out`` -> a group -> its scores; ``baselines``: a name -> scores on test,
    group ``all``; ``code_level`` and ``collisions`` belong to test and are None where items have no codes.
    """

    groups: Mapping[str, Mapping[str, GroupScores]]
    baselines: Mapping[str, GroupScores]
    code_level: GroupScores | None = None
    collisions: float | None = None


def evaluate_predictions(split: Split, predictions: Mapping[str, Mapping[str, Rankings]], ks: Sequence[int],
                         filter_history: bool, generator: np.random.Generator,
                         codes: np.ndarray | None = None) -> Evaluation:
    """Score the lists of a method, and popularity and random lists for the same test users.

    Args:
        split: the held-out users and targets, and what is known of the items.
        predictions: each part of ``split.held_out`` -> a candidate set -> lists.
        ks: list lengths.
        filter_history: whether the method's lists leave out the user's history; the baselines do the same.
        generator: draws the random lists.
        codes: ``(N, L)`` int32, the identifiers that were decoded, None where there are none.

    Raises:
        ValueError: if lists and users, or codes and items, do not belong together.
    """
    if codes is not None and len(codes) != split.num_items:
        raise ValueError(f"item codes have {len(codes)} rows but there are {split.num_items} items; re-run quantize")
    parts = split.held_out
    lists = {part: {name: lists_of(rankings, cases, part) for name, rankings in predictions[part].items()}
             for part, cases in parts.items()}
    groups = {part: score_groups(lists[part], cases, split.warm, split.popularity_group, ks)
              for part, cases in parts.items()}

    test, length = split.test, max(ks)
    ranked = {"popularity": rank_by_popularity(split.train_count, test.histories, length, filter_history),
              "random": rank_at_random(split.num_items, test.histories, length, filter_history, generator)}
    baselines = {name: score_lists(ranking, test.targets, ks) for name, ranking in ranked.items()}
    if codes is None:
        return Evaluation(groups, baselines)
    return Evaluation(groups, baselines, score_identifiers(lists["test"]["all"], test.targets, codes, ks),
                      collision_share(test.targets, codes))


def metrics_tree(run: Mapping[str, Any], evaluation: Evaluation, decode: Mapping[str, float]) -> dict[str, Any]:
    """The content of metrics.json (docs/design.md, section 5): means, rounded to 6 decimals.

    Args:
        run: protocol, preset and seed.
        decode: what the decode stage counted, e.g. ``invalid_share``.
    """
    tree = {"run": dict(run)}
    for part, groups in evaluation.groups.items():
        tree[part] = {name: scores.means() for name, scores in groups.items()}
    if evaluation.code_level is not None:
        tree["test"]["code_level"] = evaluation.code_level.means()
    tree["baseline"] = {name: scores.means() for name, scores in evaluation.baselines.items()}
    tree["decode"] = dict(decode)
    if evaluation.collisions is not None:
        tree["collisions"] = evaluation.collisions
    return _rounded(tree)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, DECIMALS) if isinstance(value, float) else value
