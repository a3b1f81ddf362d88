"""Beam search over identifiers, of all users at once: constrained to a trie, or to the codes of a level only.

The model is a callable. Scores are plain sums of log-probabilities over the model's whole vocabulary, without length
normalisation. Shapes: B users, W beams, L levels, K codes of a level, C choices (K, or K + 1 with ends: see trie.py).
Source of the constraint: De Cao et al. 2021, "Autoregressive Entity Retrieval" (GENRE), section 3.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline_lib.decoding.top_places import top_places
from pipeline_lib.decoding.trie import Trie

NextLogProbs = Callable[[int, Tensor | None, Tensor | None], Tensor]
"""``(level, codes, parents) -> log_probs``.

At level 0 both are None and the result is ``(B, 1, C)``. At level l, ``codes (B, W)`` were chosen at level l - 1 by
the beams ``parents (B, W)`` of that level, and the result is ``(B, W, C)``: log-probabilities of the codes of level
l, and, where identifiers vary in length, of the end behind them.
"""


@dataclass(frozen=True)
class Beams:
    """Hypotheses, best first.

    Args:
        leaves: ``(B, W)`` int64, leaves of a trie; -1 where there is no hypothesis, or one that is no item.
        scores: ``(B, W)`` float32, -inf where there is no hypothesis.
    """

    leaves: Tensor
    scores: Tensor

    def invalid_share(self) -> float:
        """The share of hypotheses that are no item: 0 under a trie."""
        present = self.scores > -torch.inf
        return (present & (self.leaves < 0)).sum().item() / max(present.sum().item(), 1)


def beam_search(next_log_probs: NextLogProbs, trie: Trie, num_users: int, beam_size: int) -> Beams:
    """Search the trie. Equal scores are ordered by code, the lower first.

    A beam as wide as the number of leaves is exhaustive: it yields every leaf with its exact score.

    Raises:
        ValueError: if beam_size is not positive, or log-probabilities have another shape or are not a number.
    """
    _check_beam_size(beam_size)
    nodes = torch.zeros(num_users, 1, dtype=torch.int64, device=trie.device)
    scores = torch.zeros(num_users, 1, device=trie.device)
    codes = parents = ended = None
    for level in range(trie.num_levels):
        log_probs = _checked(next_log_probs(level, codes, parents), level, (*nodes.shape, trie.num_choices[level]))
        if ended is not None:
            log_probs = _carry_ended(log_probs, ended)
        log_probs = log_probs.masked_fill(~trie.allowed(level, nodes), -torch.inf)
        width = min(beam_size, trie.num_nodes(level + 1))
        scores, parents, codes = _best_extensions(scores, log_probs, width)
        nodes = trie.step(level, nodes.gather(1, parents), codes)
        if trie.has_ends:
            ended = codes == trie.level_sizes[level]
    scores, order = _best_first(scores)
    leaves = nodes.gather(1, order)
    return Beams(torch.where(scores > -torch.inf, leaves, -1), scores)


def soft_beam_search(next_log_probs: NextLogProbs, level_sizes: Sequence[int], num_users: int, beam_size: int,
                     has_ends: bool = False, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Search all code combinations, whether or not an item has them; `beams_in_trie` finds those that one has.

    Args:
        has_ends: whether the last choice of each level is the end, as in a trie with identifiers of several lengths.

    Returns:
        codes: ``(B, W, L)`` int64, best first, right-padded with -1.
        scores: ``(B, W)`` float32, -inf where there is no hypothesis.

    Raises:
        ValueError: as `beam_search`.
    """
    _check_beam_size(beam_size)
    history = torch.empty(num_users, 1, 0, dtype=torch.int64, device=device)
    scores = torch.zeros(num_users, 1, device=device)
    codes = parents = ended = None
    for level, size in enumerate(level_sizes):
        log_probs = _checked(next_log_probs(level, codes, parents), level, (*scores.shape, size + has_ends))
        if ended is not None:
            log_probs = _carry_ended(log_probs, ended)
        width = min(beam_size, scores.shape[1] * (size + has_ends))
        scores, parents, codes = _best_extensions(scores, log_probs, width)
        if has_ends:
            ended = codes == size
        written = codes if ended is None else codes.masked_fill(ended, -1)
        earlier = history.gather(1, parents.unsqueeze(-1).expand(-1, -1, level))
        history = torch.cat([earlier, written.unsqueeze(-1)], dim=-1)
    scores, order = _best_first(scores)
    return history.gather(1, order.unsqueeze(-1).expand_as(history)), scores


def beams_in_trie(codes: Tensor, scores: Tensor, trie: Trie) -> Beams:
    """Look hypotheses ``(B, W, L)`` up; those that are no item keep their score and get leaf -1."""
    return Beams(torch.where(scores > -torch.inf, trie.find(codes), -1), scores)


def _best_extensions(scores: Tensor, log_probs: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the best of ``(B, W, C)`` extensions, in the order of their codes, not of their scores.

    Beams in the order of their codes make the flat index ``beam * C + code`` an order by code, too, so that equal
    scores at the edge of the beam are settled by the lower flat index.

    Returns:
        scores, parents and codes, each ``(B, width)``.
    """
    num_choices = log_probs.shape[-1]
    flat = (log_probs + scores.unsqueeze(-1)).flatten(1)
    chosen = top_places(flat, width)
    return flat.gather(1, chosen), chosen // num_choices, chosen % num_choices


def _best_first(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted scores and their order, equal ones by code. Nothing beats a NaN, so one that was met is among them."""
    if scores.isnan().any():
        raise ValueError("log-probabilities are not a number; did training diverge?")
    return scores.sort(dim=1, descending=True, stable=True)


def _carry_ended(log_probs: Tensor, ended: Tensor) -> Tensor:
    """An identifier that has ended stays as it is, at no cost: its only choice is the end, with log-probability 0."""
    log_probs = log_probs.masked_fill(ended.unsqueeze(-1), -torch.inf)
    log_probs[..., -1].masked_fill_(ended, 0.0)
    return log_probs


def _checked(log_probs: Tensor, level: int, shape: tuple[int, ...]) -> Tensor:
    if tuple(log_probs.shape) != shape:
        raise ValueError(f"log-probabilities of level {level} have shape {tuple(log_probs.shape)}, expected {shape} "
                         "(users, beams, choices)")
    return log_probs.float()


def _check_beam_size(beam_size: int) -> None:
    if beam_size < 1:
        raise ValueError(f"beam_size is {beam_size}, expected at least 1")
