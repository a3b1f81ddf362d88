"""What validation says of a set recommender: its loss, its ranking, and the ranking at every beta.

Shapes: B users of a batch, U validation users, I items, M tokens an item, W width.
Source: Lin et al. 2025, equation 7. The released code chooses beta on test users; here it is never.
"""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.set_batches import item_tensors
from pipeline_lib.recommenders.set_network import SetQueryNetwork, dimension_weights
from pipeline_lib.records import Cases
from pipeline_lib.sequences.batches import in_order_batches
from pipeline_lib.training.validation import best_items, ranking_figures

BETAS = tuple(step / 10 for step in range(11))
ENCODED_TOGETHER = 256


@dataclass(frozen=True)
class Held:
    """Validation users: what is read of their histories, their cases, and whether lists leave histories out."""

    histories: Ragged
    cases: Cases
    filter_history: bool


def answers_to(network: SetQueryNetwork, corpus: Tensor, histories: Ragged) -> Tensor:
    """``(B, M, W)`` float32: the answers behind whole histories, whose tokens are rows of ``corpus (I, M, W)``."""
    batch = {name: value.to(corpus.device) for name, value in item_tensors(histories).items()}
    return network.answers(corpus, batch["items"], batch["lengths"], batch["lengths"][:, None])[:, 0].float()


def weighted(answers: Tensor, weights: Tensor) -> Tensor:
    """``(B, M, W)`` and ``(M,) -> (B, M * W)``: a weighted sum of inner products is one of longer vectors."""
    return (answers * weights[:, None]).flatten(1)


def validate_at(network: SetQueryNetwork, held: Held, beta: float, accelerator: Accelerator) -> dict[str, float]:
    """The generation loss of first targets, where they can be told apart at all, and the ranking at one beta."""
    answers, table = _answers(network, held, accelerator)
    with torch.inference_mode():
        first = torch.from_numpy(held.cases.targets.values[held.cases.targets.offsets[:-1]]).long().to(table.device)
        known = network.rank[first] >= 0
        terms = max(1, int(known.sum()) * table.shape[1])
        loss = float(network.generation_loss(answers[known], table, first[known])) / terms
        return {"loss": loss, **_figures(answers, table, held, beta, network.sets.tokens)}


def validate_betas(network: SetQueryNetwork, held: Held, accelerator: Accelerator) -> list[dict[str, float]]:
    """A row for each beta, users encoded once; one row where there is nothing to weigh."""
    tokens, set_size = network.sets.tokens, network.sets.set_size
    betas = BETAS if 0 < tokens < set_size else (float(tokens > 0),)
    answers, table = _answers(network, held, accelerator)
    with torch.inference_mode():
        return [{"beta": beta, **_figures(answers, table, held, beta, tokens)} for beta in betas]


@torch.inference_mode()
def _answers(network: SetQueryNetwork, held: Held, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Answers ``(U, M, W)``, and the table ``(I, M, W)`` to score with."""
    network.eval()
    corpus = network.corpus()
    answers = torch.empty(len(held.cases), *corpus.shape[1:], device=corpus.device)
    with accelerator.autocast():
        for rows in in_order_batches(held.histories.lengths, ENCODED_TOGETHER):
            answers[torch.from_numpy(rows).to(corpus.device)] = answers_to(network, corpus, held.histories.take(rows))
    return answers, network.scored(corpus)


def _figures(answers: Tensor, table: Tensor, held: Held, beta: float, tokens: int) -> dict[str, float]:
    """NDCG and recall of the ten best items."""
    users = weighted(answers, dimension_weights(beta, table.shape[1], tokens).to(table.device))
    lists = best_items(users, table.flatten(1), held.cases.histories if held.filter_history else None)
    return ranking_figures(lists, held.cases.targets)
