"""From hypotheses to items: an identifier shared by several items stands for all of them.

Shapes: B users, W beams, N items. Source of the rule: docs/design.md, section 6.1.
"""

import numpy as np

from pipeline_lib.decoding.beam import Beams
from pipeline_lib.decoding.trie import Trie
from pipeline_lib.ragged import Ragged


def rank_items(beams: Beams, trie: Trie, *, top_k: int, order: np.ndarray,
               excluded: Ragged | None = None) -> tuple[Ragged, np.ndarray]:
    """Write each user's hypotheses out as items, best first, no item twice.

    Args:
        beams: hypotheses of B users; leaf -1 is skipped.
        trie: the trie of their leaves.
        top_k: longest list wanted; hypotheses and exclusions may leave a shorter one.
        order: ``(N,)`` int, a seeded fixed rank of each item: items that share an identifier, and so a score, come in
            this order.
        excluded: B rows, the items that a user must not get (history filtering).

    Returns:
        items: B rows of items.
        scores: float32, one for each of ``items.values``.

    Raises:
        ValueError: if ``excluded`` is not of B rows.
    """
    leaves, leaf_scores = beams.leaves.cpu().numpy(), beams.scores.float().cpu().numpy()
    num_users, num_items = len(leaves), len(order)
    if excluded is not None and len(excluded) != num_users:
        raise ValueError(f"excluded items are given for {len(excluded)} users, but beams for {num_users}")
    users, places = np.nonzero(leaves >= 0)
    hypotheses = trie.items_of_leaves.take(leaves[users, places])
    hypothesis, items = hypotheses.row_of_value, hypotheses.values

    sorting = np.argsort(hypothesis * num_items + order[items])
    hypothesis, items = hypothesis[sorting], items[sorting]
    pairs = users[hypothesis] * num_items + items
    keep = np.zeros(len(pairs), dtype=bool)
    keep[np.unique(pairs, return_index=True)[1]] = True  # the first, so the best, of each
    if excluded is not None:
        keep &= ~np.isin(pairs, excluded.row_of_value * num_items + excluded.values)
    hypothesis, items = hypothesis[keep], items[keep]

    starts = np.searchsorted(users[hypothesis], np.arange(num_users + 1))
    within = np.arange(len(items)) - starts[users[hypothesis]] < top_k
    hypothesis, items = hypothesis[within], items[within]
    offsets = np.searchsorted(users[hypothesis], np.arange(num_users + 1)).astype(np.int64)
    return Ragged(items.astype(np.int32), offsets), leaf_scores[users, places][hypothesis]


def count_items(beams: Beams, trie: Trie) -> np.ndarray:
    """``(B,)`` int64: how many items each user's hypotheses stand for, none of them excluded."""
    leaves = beams.leaves.cpu().numpy()
    return np.where(leaves >= 0, trie.items_of_leaves.lengths[leaves.clip(min=0)], 0).sum(axis=1)


def replace_lists(lists: tuple[Ragged, np.ndarray], rows: np.ndarray,
                  others: tuple[Ragged, np.ndarray]) -> tuple[Ragged, np.ndarray]:
    """Ranked lists of B users, those of ``rows (n,)`` replaced by ``others`` that are no shorter, as lists of a wider
    `soft_beam_search` may be; both as `rank_items` returns them."""
    (items, scores), (other_items, other_scores) = lists, others
    source, longer = np.arange(len(items)), other_items.lengths >= items.lengths[rows]
    source[rows[longer]] = len(items) + np.flatnonzero(longer)
    offsets = np.concatenate([items.offsets, items.offsets[-1] + other_items.offsets[1:]])
    return (Ragged(np.concatenate([items.values, other_items.values]), offsets).take(source),
            Ragged(np.concatenate([scores, other_scores]), offsets).take(source).values)
