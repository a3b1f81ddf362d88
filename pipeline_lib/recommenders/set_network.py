"""The network that is trained: token sets of all items, a backbone that answers queries, and the losses.

Shapes: B rows, T items, Q places of a row that are asked about, P targets, M tokens an item and queries a place,
I items, N semantic tokens, W width.
Source: Lin et al. 2025, "Order-agnostic Identifier for Large Language Model-based Generative Recommendation",
section 3, equations 5 to 8.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline_lib.backbones.empty_share import no_rows
from pipeline_lib.backbones.item_losses import full_softmax_loss
from pipeline_lib.quantizers.set_autoencoder import SetAutoencoder

QUERY_STD = 0.02


class SetQueryNetwork(nn.Module):
    """``forward`` gives the loss of a batch of `set_batches.TargetRows`, `answers` what queries are answered.

    Args:
        backbone: of `backbones.set_t5` or `backbones.set_lm`.
        sets: what makes tokens of items; it is trained along.
        vectors, cf_vectors: ``(I, D)`` and ``(I, C)``, frozen.
        without_cf: ``(I,)`` bool, items whose collaborative token is zero (cold ones, whose vector says nothing).
        candidates: ``(K,)`` int64, the items that targets are told from; None for all.
        frozen_queries: queries stay as they were drawn.
        free_head: items are scored by a table of its own, not by their tokens.
        alpha: weight of the reconstruction.
    """

    def __init__(self, backbone: nn.Module, sets: SetAutoencoder, vectors: Tensor, cf_vectors: Tensor, *,
                 without_cf: Tensor | None = None, candidates: Tensor | None = None, frozen_queries: bool = False,
                 free_head: bool = False, alpha: float = 0.5) -> None:
        super().__init__()
        self.backbone, self.sets, self.alpha = backbone, sets, alpha
        queries = torch.empty(sets.set_size, sets.width).normal_(std=QUERY_STD)
        self.queries = nn.Parameter(queries, requires_grad=not frozen_queries)
        head = torch.empty(len(vectors), sets.set_size, sets.width).normal_(std=QUERY_STD) if free_head else None
        self.head = None if head is None else nn.Parameter(head)
        keeps_cf = None if without_cf is None else (~without_cf).float()
        candidates = torch.arange(len(vectors)) if candidates is None else candidates
        rank = torch.full((len(vectors),), -1).index_copy(0, candidates, torch.arange(len(candidates)))
        frozen = {"vectors": vectors, "cf_vectors": cf_vectors, "keeps_cf": keeps_cf, "candidates": candidates,
                  "rank": rank}
        for name, value in frozen.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """``L_gen + alpha * L_AE`` (eq. 8), as a sum over the ``P * M`` terms that the first averages."""
        if not len(batch["targets"]):  # a process may get no row of a batch
            return no_rows(self)
        corpus = self.corpus()
        answers = self.answers(corpus, batch["items"], batch["lengths"], batch["seen"])[batch["seen"] > 0]  # (P, M, W)
        loss = self.generation_loss(answers, self.scored(corpus), batch["targets"])
        if self.alpha and self.sets.tokens:
            rebuilt = self.reconstruction_loss(corpus, batch["items"], batch["seen"])
            loss = loss + self.alpha * self.sets.set_size * rebuilt
        return loss, answers.shape[0] * answers.shape[1]

    def corpus(self) -> Tensor:
        """The tokens of all items, ``(I, M, W)``."""
        tokens = self.sets(self.vectors, self.cf_vectors).float()  # also under autocast, as they are when users are ranked
        if self.sets.projection is None or self.keeps_cf is None:
            return tokens
        return torch.cat([tokens[:, :1] * self.keeps_cf[:, None, None], tokens[:, 1:]], dim=1)

    def scored(self, corpus: Tensor) -> Tensor:
        """``(I, M, W)``: what answers are multiplied with: the corpus, or the free head."""
        return corpus if self.head is None else self.head

    def answers(self, corpus: Tensor, items: Tensor, lengths: Tensor, seen: Tensor) -> Tensor:
        """``(B, Q, M, W)`` after the first ``seen (B, Q)`` of a row's ``items (B, T)``: eq. 5, all in one pass."""
        tokens = F.embedding(items.clamp(min=0), corpus.flatten(1)).unflatten(-1, corpus.shape[1:])
        return self.backbone(tokens * (items >= 0)[..., None, None], lengths, self.queries, seen)

    def generation_loss(self, answers: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of ``targets (P,)`` in each dimension, by inner product with all candidates: eq. 6, a sum.

        Args:
            answers: ``(P, M, W)``.
            table: ``(I, M, W)``.
        """
        if len(self.candidates) < len(table):
            table = table[self.candidates]
        labels = self.rank[targets]
        dimensions = zip(answers.unbind(dim=1), table.unbind(dim=1), strict=True)  # one gradient of the table, not M
        return sum(full_softmax_loss(states.contiguous(), items.contiguous(), labels) for states, items in dimensions)

    def reconstruction_loss(self, corpus: Tensor, items: Tensor, seen: Tensor) -> Tensor:
        """L_AE of the items in front of each target, averaged over them, and summed over targets.

        The released code averages over all positions of a batch at once, which would make the loss of a row depend on
        the others, and so on how a batch is spread over processes.
        """
        place = torch.arange(items.shape[1], device=items.device)
        shares = ((place < seen[..., None]) / seen.clamp(min=1)[..., None]).sum(dim=1)  # (B, T)
        real = items >= 0
        found, inverse = torch.unique(items[real], return_inverse=True)
        weights = torch.zeros(len(found), device=items.device).index_add_(0, inverse, shares[real])
        errors = self.sets.reconstruction_errors(self.vectors[found], corpus[found, -self.sets.tokens :])
        return (weights * errors).sum()


def dimension_weights(beta: float, set_size: int, tokens: int) -> Tensor:
    """``(M,)``: 1 - beta for the collaborative dimension, beta for each of the ``tokens`` semantic ones (eq. 7).

    Sets of one kind alone are weighted by 1.
    """
    if set_size == tokens or tokens == 0:
        return torch.ones(set_size)
    return torch.tensor([1 - beta] + [beta] * tokens)
