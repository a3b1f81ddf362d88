"""From a model's next-code distribution, or its vectors, to ranked items: for each set of candidates, over one process
or several. What all recommenders share. Shapes: N items, B users of a batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from pipeline_lib.decoding.beam import Beams, NextLogProbs, beam_search, beams_in_trie, soft_beam_search
from pipeline_lib.decoding.expansion import count_items, rank_items, replace_lists
from pipeline_lib.decoding.grounding import ground
from pipeline_lib.decoding.index import build_index, index_bytes, index_recall, search_index
from pipeline_lib.decoding.trie import Trie, build_trie
from pipeline_lib.params import DecodeParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Rankings, Split

if TYPE_CHECKING:
    import faiss

RECALL_USERS = 1000  # at most, for which an index is compared with exact scoring


@dataclass(frozen=True)
class Decoder:
    """How codes become ranked items.

    Args:
        tries: a trie for each set of candidates, e.g. ``{"all": ..., "cold": ...}``.
        kind: ``beam`` walks the trie; ``soft_beam`` is restricted to the codes of a level only.
        beam_size: hypotheses kept; more for a user whose history takes places of the list (`search_cases`).
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

    def search(self, next_log_probs: NextLogProbs, candidates: str, num_users: int, beam_size: int) -> Beams:
        trie = self.tries[candidates]
        if self.kind == "beam":
            return beam_search(next_log_probs, trie, num_users, beam_size)
        found = soft_beam_search(next_log_probs, trie.level_sizes, num_users, beam_size, trie.has_ends, trie.device)
        return beams_in_trie(*found, trie)

    def num_hypotheses(self, candidates: str) -> int:
        """How many there can be: a beam as wide finds all of them."""
        trie = self.tries[candidates]
        return trie.num_leaves if self.kind == "beam" else min(math.prod(trie.num_choices), np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Grounder:
    """How vectors become ranked items.

    Args:
        items: ``(N, D)``, in a shuffled order, so that how ties fall says nothing about items; of length 1 for ``cosine``.
        numbers: ``(N,)`` int, the item that each row of ``items`` is.
        allowed: for each set of candidates, ``(N,)`` bool over the rows of ``items``, or None for all.
        similarity: ``dot`` or ``cosine``.
        top_k: longest list.
        filter_history: whether a user's history is left out of the list.
        index: over the same rows, by their numbers, to rank all items with; None scores every item, as the other sets
            of candidates always are.
    """

    items: Tensor
    numbers: np.ndarray
    allowed: Mapping[str, Tensor | None]
    similarity: str
    top_k: int
    filter_history: bool = False
    index: "faiss.Index | None" = None

    def rank(self, users: Tensor, candidates: str, excluded: Ragged | None) -> tuple[Ragged, np.ndarray]:
        if self.index is None or candidates != "all":
            return self.rank_exactly(users, candidates, excluded)
        items, scores = search_index(self.index, users.float().cpu().numpy(), self.top_k, excluded, self._places)
        return _rows_of(items), scores[items >= 0]

    def rank_exactly(self, users: Tensor, candidates: str, excluded: Ragged | None) -> tuple[Ragged, np.ndarray]:
        if excluded is not None:
            excluded = Ragged(self._places[excluded.values].astype(np.int32), excluded.offsets)
        if self.similarity == "cosine":
            users = F.normalize(users, dim=-1)
        places, scores = ground(users, self.items, self.top_k, allowed=self.allowed[candidates], excluded=excluded)
        places = places.cpu().numpy()
        return _rows_of(np.where(places < 0, -1, self.numbers[places])), scores.cpu().numpy()[places >= 0]

    @cached_property
    def index_file(self) -> bytes | None:
        """The index as it is saved."""
        return None if self.index is None else index_bytes(self.index)

    @cached_property
    def _places(self) -> np.ndarray:
        return np.argsort(self.numbers)


def _rows_of(items: np.ndarray) -> Ragged:
    """``(B, k)`` items, -1 behind the last one of a user, as B rows."""
    found = items >= 0
    return Ragged(items[found].astype(np.int32), np.concatenate([[0], np.cumsum(found.sum(axis=1))]))


Lists = tuple[Ragged, np.ndarray]  # items and scores, as `rank_items` returns them
# lists a candidate set; a share averaged over users; over how many of them
RankedBatch = tuple[dict[str, Lists], float, int]


@dataclass(frozen=True)
class RankedUsers:
    """``rankings``: one a set of candidates; ``invalid_share``: hypotheses under ``all`` that were no item.

    Where an index ranked ``all``, ``index_recall`` is the share of the exact lists that it found, averaged over a
    sample of users, and ``index_file`` what to save of it.
    """

    rankings: list[Rankings]
    invalid_share: float = 0.0
    index_recall: float | None = None
    index_file: bytes | None = None


def make_grounder(items: np.ndarray, split: Split, decode: DecodeParams, similarity: str, device: torch.device,
                  generator: np.random.Generator) -> Grounder:
    """A grounder of ``items (N, D)``, with lists of the parts of ``split``, and with an index, where
    ``decode`` asks for them."""
    order = generator.permutation(len(items))
    sets = _candidate_sets(split.parts if decode.candidate_sets else {}, len(items))
    allowed = {name: None if name == "all" else torch.from_numpy(mask[order]).to(device) for name, mask in sets.items()}
    index = None if decode.index is None else build_index(items[order], decode.index, similarity, order)
    table = torch.from_numpy(items[order]).to(device)
    if similarity == "cosine":
        table = F.normalize(table, dim=-1)  # once, not for every batch of users
    return Grounder(table, order, allowed, similarity, decode.top_k, decode.filter_history, index)


def candidate_tries(codes: np.ndarray, level_sizes: tuple[int, ...], parts: Mapping[str, np.ndarray],
                    device: torch.device) -> dict[str, Trie]:
    """The trie of all items, and of each of their ``parts`` (masks ``(N,)``) that is not empty.

    Where identifiers vary in length, in all of them, every identifier has an end, for which a level of size 0 is added.
    """
    has_ends = bool((codes < 0).any())
    if has_ends:
        codes, level_sizes = np.pad(codes, ((0, 0), (0, 1)), constant_values=-1), (*level_sizes, 0)
    return {name: build_trie(codes[mask], level_sizes, device, items=np.flatnonzero(mask), has_ends=has_ends)
            for name, mask in _candidate_sets(parts, len(codes)).items()}


def _candidate_sets(parts: Mapping[str, np.ndarray], num_items: int) -> dict[str, np.ndarray]:
    return {"all": np.ones(num_items, dtype=bool), **{name: mask for name, mask in parts.items() if mask.any()}}


def search_cases(cases: Cases, batches: list[np.ndarray], start: Callable[[np.ndarray], Callable[[], NextLogProbs]],
                 decoder: Decoder, accelerator: Accelerator) -> RankedUsers:
    """Rank items for every case by searching over codes.

    Where filtering leaves a user fewer items than the beam found for the list, that user's beam is doubled until the
    list is as long again, or the beam is wider by the whole history: what is not in it then has the beam for itself.
    In a trie, lists are so as long as they can be. Users whose lists are full are searched for once.

    Args:
        cases: n users.
        batches: index arrays that hold each of the n rows once.
        start: rows -> a callable that begins a search over these users' codes. It encodes the users once, however many
            searches follow.
        decoder: what to search and to keep.
    """
    def search(rows: np.ndarray, name: str, begin: Callable[[], NextLogProbs], beam_size: int) -> tuple[Beams, Lists]:
        beams = decoder.search(begin(), name, len(rows), beam_size)
        excluded = cases.histories.take(rows) if decoder.filter_history else None
        return beams, rank_items(beams, decoder.tries[name], top_k=decoder.top_k, order=decoder.order,
                                 excluded=excluded)

    def filled(lists: Lists, rows: np.ndarray, name: str, wanted: np.ndarray, beam_size: int) -> Lists:
        widest = np.minimum(decoder.beam_size + cases.histories.lengths[rows], decoder.num_hypotheses(name))
        short = np.flatnonzero((lists[0].lengths < wanted) & (beam_size < widest))
        for part in np.array_split(short, max(1, -(-2 * len(short) // len(rows)))):  # as many hypotheses at a time
            if len(part):
                _, wider = search(rows[part], name, start(rows[part]), 2 * beam_size)
                lists = replace_lists(lists, part, filled(wider, rows[part], name, wanted[part], 2 * beam_size))
        return lists

    def rank_batch(rows: np.ndarray) -> RankedBatch:
        begin, found, invalid = start(rows), {}, 0.0
        for name, trie in decoder.tries.items():
            beams, lists = search(rows, name, begin, decoder.beam_size)
            wanted = np.minimum(count_items(beams, trie), decoder.top_k)
            found[name] = filled(lists, rows, name, wanted, decoder.beam_size) if decoder.filter_history else lists
            if name == "all":
                invalid = beams.invalid_share()
        return found, invalid, len(rows)

    return RankedUsers(*_rank_cases(cases, batches, rank_batch, accelerator))


def ground_cases(cases: Cases, batches: list[np.ndarray], users_of: Callable[[np.ndarray], Tensor], grounder: Grounder,
                 accelerator: Accelerator) -> RankedUsers:
    """Rank items for every case by scoring vectors; ``users_of``: rows -> ``(B, D)``. Otherwise as `search_cases`."""
    every = -(-len(cases) // RECALL_USERS)  # users of the sample are so far apart

    def rank_batch(rows: np.ndarray) -> RankedBatch:
        users = users_of(rows)
        excluded = cases.histories.take(rows) if grounder.filter_history else None
        found = {name: grounder.rank(users, name, excluded) for name in grounder.allowed}
        sample = np.flatnonzero(rows % every == 0)
        if grounder.index is None or not len(sample):
            return found, 0.0, 0
        exact, _ = grounder.rank_exactly(users[torch.from_numpy(sample).to(users.device)], "all",
                                         None if excluded is None else excluded.take(sample))
        return found, index_recall(found["all"][0].take(sample), exact), len(sample)

    rankings, recall = _rank_cases(cases, batches, rank_batch, accelerator)
    if grounder.index is None:
        return RankedUsers(rankings)
    return RankedUsers(rankings, index_recall=recall, index_file=grounder.index_file)


def _rank_cases(cases: Cases, batches: list[np.ndarray], rank_batch: Callable[[np.ndarray], RankedBatch],
                accelerator: Accelerator) -> tuple[list[Rankings], float]:
    """Rankings, and the mean of the shares; each process takes every n-th batch, and all get the whole result."""
    parts = [(rows, *rank_batch(rows)) for rows in batches[accelerator.process_index :: accelerator.num_processes]]
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    counted = sum(users for *_, users in parts)
    mean = sum(share * users for *_, share, users in parts) / max(counted, 1)
    names = parts[0][1] if parts else ()
    return [_in_case_order(cases, [(rows, *found[name]) for rows, found, *_ in parts], name) for name in names], mean


def _in_case_order(cases: Cases, parts: list[tuple[np.ndarray, Ragged, np.ndarray]], candidates: str) -> Rankings:
    rows = np.concatenate([part[0] for part in parts])
    lengths = np.concatenate([part[1].lengths for part in parts])
    together = Ragged(np.concatenate([part[1].values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))
    scores = Ragged(np.concatenate([part[2] for part in parts]), together.offsets)  # float32 in the same layout
    order = np.argsort(rows, kind="stable")
    return Rankings(cases.users[rows[order]], together.take(order), scores.take(order).values, candidates)
