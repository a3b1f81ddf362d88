"""From a model's next-code distribution to ranked items, for each set of candidates, over one process or several.

What every recommender that decodes codes shares. Shapes: N items, B users of a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from pipeline_lib.artifacts import Cases, Rankings
from pipeline_lib.decoding.beam import Beams, NextLogProbs, beam_search, beams_in_trie, soft_beam_search
from pipeline_lib.decoding.expansion import rank_items
from pipeline_lib.decoding.trie import Trie, build_trie
from pipeline_lib.ragged import Ragged


@dataclass(frozen=True)
class Decoder:
    """How codes become ranked items.

    Args:
        tries: a trie for each set of candidates, e.g. ``{"all": ..., "cold": ...}``.
        kind: ``beam`` walks the trie; ``soft_beam`` is restricted to the codes of a level only.
        beam_size: hypotheses kept.
        top_k: longest list.
        order: ``(N,)`` int, the seeded fixed rank of items that share an identifier.
        filter_history: whether a user's history is left out of the list.
    """

    tries: Mapping[str, Trie]
    kind: str
    beam_size: int
    top_k: int
    order: np.ndarray
    filter_history: bool = False

    def search(self, next_log_probs: NextLogProbs, candidates: str, num_users: int) -> Beams:
        trie = self.tries[candidates]
        if self.kind == "beam":
            return beam_search(next_log_probs, trie, num_users, self.beam_size)
        found = soft_beam_search(next_log_probs, trie.level_sizes, num_users, self.beam_size, trie.has_ends, trie.device)
        return beams_in_trie(*found, trie)


@dataclass(frozen=True)
class RankedUsers:
    """``rankings``: one a set of candidates; ``invalid_share``: hypotheses under ``all`` that were no item."""

    rankings: list[Rankings]
    invalid_share: float


def candidate_tries(codes: np.ndarray, level_sizes: tuple[int, ...], warm: np.ndarray | None,
                    device: torch.device) -> dict[str, Trie]:
    """The trie of all items and, where ``warm (N,)`` bool is given, those of its two parts, if not empty."""
    sets = {"all": np.ones(len(codes), dtype=bool)}
    if warm is not None:
        sets |= {name: mask for name, mask in (("warm", warm), ("cold", ~warm)) if mask.any()}
    return {name: build_trie(codes[mask], level_sizes, device, items=np.flatnonzero(mask)) for name, mask in sets.items()}


def rank_cases(cases: Cases, batches: list[np.ndarray], start: Callable[[np.ndarray], Callable[[], NextLogProbs]],
               decoder: Decoder, accelerator: Accelerator) -> RankedUsers:
    """Rank items for every case; each process takes every n-th batch, and all of them get the whole result.

    Args:
        cases: n users.
        batches: index arrays that hold each of the n rows once.
        start: rows -> a callable that begins a search over these users' codes. It encodes the users once, however many
            searches follow.
        decoder: what to search and to keep.
    """
    found, invalid = {name: [] for name in decoder.tries}, [0.0, 0.0]
    for rows in batches[accelerator.process_index :: accelerator.num_processes]:
        begin = start(rows)
        excluded = cases.histories.take(rows) if decoder.filter_history else None
        for name, trie in decoder.tries.items():
            beams = decoder.search(begin(), name, len(rows))
            found[name].append((rows, *rank_items(beams, trie, top_k=decoder.top_k, order=decoder.order,
                                                  excluded=excluded)))
            if name == "all":
                invalid = [invalid[0] + beams.invalid_share() * len(rows), invalid[1] + len(rows)]
    if accelerator.num_processes > 1:
        gathered = gather_object([(found, invalid)])
        found = {name: [part for process, _ in gathered for part in process[name]] for name in decoder.tries}
        invalid = [sum(process[place] for _, process in gathered) for place in (0, 1)]
    rankings = [_in_case_order(cases, parts, name) for name, parts in found.items()]
    return RankedUsers(rankings, invalid[0] / max(invalid[1], 1.0))


def _in_case_order(cases: Cases, parts: list[tuple[np.ndarray, Ragged, np.ndarray]], candidates: str) -> Rankings:
    rows = np.concatenate([part[0] for part in parts])
    lengths = np.concatenate([part[1].lengths for part in parts])
    together = Ragged(np.concatenate([part[1].values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))
    scores = Ragged(np.concatenate([part[2] for part in parts]), together.offsets)  # float32 in the same layout
    order = np.argsort(rows, kind="stable")
    return Rankings(cases.users[rows[order]], together.take(order), scores.take(order).values, candidates)
