"""User and item vectors fitted by Bayesian personalised ranking: an item that a user took should beat one not taken.

What `mf` and `lightgcn` have in common: the model, the triples it is trained on, and the choice of the epoch.

Shapes: U users, N items, n cases, B triples, D dimensions, Lg graph layers.
Source: Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback", section 4.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline_lib.backbones.graph import BipartiteGraph, mean_of_layers
from pipeline_lib.params import TrainingParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import NonNegativeFloat, PositiveFloat, PositiveInt
from pipeline_lib.records import Cases, Split
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import fit
from pipeline_lib.training.validation import EPOCH_FIGURE, best_items, ranking_figures, validation_rows

log = logging.getLogger(__name__)
CLIP_NORM = 100.0  # far above what a mean over triples reaches: a guard, not a setting


@dataclass(frozen=True)
class PairwiseOptions:
    """What both are told; ``regularisation`` weighs the squared lengths of a triple's three rows.

    ``filter_history``: whether epochs are chosen by lists that leave out the user's history. Where it is false, such a
    model puts the items of its training first: it is fitted to do so.
    """

    dimensions: PositiveInt = 64
    learning_rate: PositiveFloat = 5e-3
    regularisation: NonNegativeFloat = 1e-4
    batch_size: PositiveInt = 8192
    epochs: PositiveInt = 100
    patience: PositiveInt = 5
    validate_every: PositiveInt = 5
    validate_users: PositiveInt | None = None
    filter_history: bool = True


@dataclass(frozen=True)
class Vectors:
    """``users (U, D)``, ``items (N, D)``, and what embeds users without training data: n histories -> ``(n, D)``."""

    users: Tensor
    items: Tensor
    fold_in: Callable[[Ragged], Tensor]


class PairwiseModel(nn.Module):
    """Vectors of users ``(U, D)`` and items ``(N, D)``; with a graph, what is ranked by is their mean over its layers.

    Args:
        regularisation: weight of the L2 term.
        graph: None for plain matrix factorisation.
        num_layers: Lg, how often vectors are propagated.
    """

    def __init__(self, num_users: int, num_items: int, dimensions: int, regularisation: float,
                 graph: BipartiteGraph | None = None, num_layers: int = 0) -> None:
        super().__init__()
        self.users = nn.Parameter(0.1 * torch.randn(num_users, dimensions))
        self.items = nn.Parameter(0.1 * torch.randn(num_items, dimensions))
        self.regularisation, self.graph, self.num_layers = regularisation, graph, num_layers

    def layers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Layers 0 to Lg of users and of items."""
        if self.graph is None:
            return [self.users], [self.items]
        return self.graph.layers(self.users, self.items, self.num_layers)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Users ``(U, D)`` and items ``(N, D)`` whose dot product ranks."""
        users, items = self.layers()
        return mean_of_layers(users), mean_of_layers(items)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss summed over ``triples (B, 3)`` int64 of user, item taken and item not taken, and B.

        Rendle et al., section 4.3: -ln sigma(x_ui - x_uj), plus the L2 term of He et al. 2020, equation 15, which falls
        on the layer-0 rows of the batch alone, halved as in the authors' code.
        """
        user, taken, other = batch["triples"].unbind(dim=1)
        users, items = self.vectors()
        margin = (users[user] * (items[taken] - items[other])).sum(dim=1)
        rows = torch.stack([self.users[user], self.items[taken], self.items[other]])
        loss = -F.logsigmoid(margin).sum() + 0.5 * self.regularisation * rows.square().sum()
        return loss, margin.new_tensor(len(user))


def fit_pairwise(model: PairwiseModel, split: Split, vectors_of: Callable[[PairwiseModel], Vectors],
                 options: PairwiseOptions, *, checkpoints: Checkpoints, accelerator: Accelerator,
                 seed: int) -> list[dict[str, float]]:
    """Train in place on `split.train`, keeping the epoch with the best ndcg@10 of validation users, if there are any.

    Args:
        vectors_of: the model -> what it ranks validation users with.

    Returns:
        A row an epoch, as `training.loop.fit`.

    Raises:
        ValueError: if nothing can be learned, or no validation user can be embedded.
    """
    pairs = training_pairs(split)
    rankable = np.isin(split.valid.users, pairs[:, 0]) | (split.valid.histories.lengths > 0)
    rows = np.flatnonzero(rankable)
    if len(split.valid) and not len(rows):
        raise ValueError(f"split.valid: none of {len(split.valid)} users has training data or a history, so no epoch "
                         "can be chosen; set split.min_history=1 or more")
    cases = split.valid.take(validation_rows(rows, options.validate_users, seed))

    def batches(epoch: int) -> list[np.ndarray]:
        generator = numpy_generator(seed, f"epoch {epoch}")
        triples = generator.permutation(with_negatives(pairs, split.num_items, generator))
        return [triples[at : at + options.batch_size] for at in range(0, len(triples), options.batch_size)]

    training = TrainingParams(
        options.epochs, options.batch_size, options.learning_rate, weight_decay=0.0, schedule="constant",
        warmup_share=0.0, clip_norm=CLIP_NORM, validate_every=options.validate_every, patience=options.patience,
        early_stopping=EPOCH_FIGURE)
    log.info("%d users, %d items, %d different interactions, %d validation users", len(model.users), split.num_items,
             len(pairs), len(cases))
    return fit(model, batches=batches, collate=lambda batch: {"triples": torch.from_numpy(batch)},
               validate=torch.inference_mode()(lambda network: _measure(vectors_of(network), cases, split,
                                                                        options.filter_history)),
               held_out=cases, params=training, checkpoints=checkpoints, accelerator=accelerator)


def count_users(split: Split) -> int:
    """1 + the largest user index of the split; readers pad what is missing to the users of users.parquet."""
    return 1 + max(int(users.max(initial=-1)) for users in (split.train_users, split.valid.users, split.test.users))


def training_pairs(split: Split) -> np.ndarray:
    """``(M, 2)`` int64 of user and item, sorted, each pair once however often it was repeated."""
    users = split.train_users[split.train.row_of_value].astype(np.int64)
    return np.stack(np.divmod(np.unique(users * split.num_items + split.train.values), split.num_items), axis=1)


def with_negatives(pairs: np.ndarray, num_items: int, generator: np.random.Generator) -> np.ndarray:
    """Add to each pair an item drawn uniformly from those that its user has not trained on.

    Exact and without retries: draw the rank r of the item among the N - d items that the user lacks, then step over the
    user's own items t_0 < t_1 < ..., of which those with t_k - k <= r stand before it.

    Args:
        pairs: ``(M, 2)`` int64 of user and item, sorted, no pair twice.

    Returns:
        ``(at most M, 3)`` int64; users who took every item are left out.

    Raises:
        ValueError: if no pair is left.
    """
    users, items = pairs.T
    degrees = np.bincount(users)
    starts = np.concatenate([[0], np.cumsum(degrees)])
    lacking_before = items - (np.arange(len(pairs)) - starts[users])  # t_k - k, never falling within a user
    keys = users * (num_items + 1) + lacking_before
    kept = degrees[users] < num_items
    if not kept.any():
        raise ValueError(f"split.train: {len(pairs)} interactions, and no user with one lacks any of the {num_items} "
                         "items; pairwise ranking needs users who took some items and not others")
    users, items = users[kept], items[kept]
    rank = generator.integers(0, num_items - degrees[users])
    own_before = np.searchsorted(keys, users * (num_items + 1) + rank, side="right") - starts[users]
    return np.stack([users, items, rank + own_before], axis=1)


def user_states(vectors: Vectors, cases: Cases, split: Split) -> np.ndarray:
    """The vectors of all users before the targets of ``cases``: ``(U, D)`` float32.

    A user with training data has the fitted vector, any other user of ``cases`` the one folded in from its history;
    rows of users with neither are NaN.
    """
    states = np.full(tuple(vectors.users.shape), np.nan, dtype=np.float32)
    trained = np.zeros(len(states), dtype=bool)
    trained[split.train_users[split.train.lengths > 0]] = True
    states[trained] = vectors.users.cpu().numpy()[trained]
    new = np.flatnonzero(~trained[cases.users] & (cases.histories.lengths > 0))
    if len(new):
        states[cases.users[new]] = vectors.fold_in(cases.histories.take(new)).cpu().numpy()
    return states


def distinct_values(histories: Ragged) -> Ragged:
    """Each history's different items, in the order of their index."""
    span = 1 + int(histories.values.max(initial=0))
    rows, values = np.divmod(np.unique(histories.row_of_value * span + histories.values), span)
    return Ragged(values.astype(np.int32), np.searchsorted(rows, np.arange(len(histories) + 1)))


def _measure(vectors: Vectors, cases: Cases, split: Split, filter_history: bool) -> dict[str, float]:
    """NDCG and recall of the best items of each case."""
    users = torch.from_numpy(user_states(vectors, cases, split)[cases.users])
    lists = best_items(users, vectors.items, cases.histories if filter_history else None)
    return ranking_figures(lists, cases.targets)
