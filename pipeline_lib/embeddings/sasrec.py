"""Item and user vectors from SASRec: a causal transformer over a user's items, trained to tell the next one.

A user's vector is the last hidden state of the history, an item's the row of the tied item table, and their dot
product the score. All positions of a user are trained in one pass. Departures from the paper: full softmax by default
in place of one negative (far stronger; `bce` is the paper's loss), post-norm blocks, no dropout of attention weights.

Shapes: B users of a batch, T positions, P positions with an item to tell, N items, D dimensions, n histories, U users.
Source: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation"; sizes as in RecBole.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline_lib.backbones.causal_transformer import CausalTransformer
from pipeline_lib.backbones.item_losses import bce_loss, full_softmax_loss, sampled_softmax_loss
from pipeline_lib.params import TrainingParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, ShareBelowOne
from pipeline_lib.records import Cases, Catalogue, Embedding, Split
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import in_order_batches, length_bucketed_batches
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.early_stopping import training_summary
from pipeline_lib.training.loop import fit
from pipeline_lib.training.validation import EPOCH_FIGURE, best_items, ranking_figures, validation_rows

log = logging.getLogger(__name__)
ENCODED_TOGETHER = 256  # histories
BUCKET_BATCHES = 50
CLIP_NORM = 5.0


@dataclass(frozen=True)
class Config:
    """Options under ``embed.sasrec``: ``batch_size`` counts users.

    ``filter_history``: whether epochs are chosen by lists that leave out the user's history.
    """

    dimensions: PositiveInt = 64
    layers: PositiveInt = 2
    heads: PositiveInt = 2
    feed_forward: PositiveInt = 256
    dropout: ShareBelowOne = 0.5
    initializer_std: PositiveFloat = 0.02
    max_items: PositiveInt = 50
    loss: Literal["full", "sampled", "bce"] = "full"
    negatives: PositiveInt = 100
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    epochs: PositiveInt = 200
    patience: PositiveInt = 10
    validate_every: PositiveInt = 1
    validate_users: PositiveInt | None = None
    filter_history: bool = True


def embed_items(catalogue: Catalogue, split: Split, config: Config, *, checkpoints: Checkpoints,
                accelerator: Accelerator, seed: int) -> Embedding:
    """Train on the training histories, choose the epoch by ndcg@10 of validation users, embed all items and users.

    Args:
        catalogue: not used; here since every embedding source takes the same arguments.

    Returns:
        ``users_valid`` and ``users_test`` have a row for each user up to the largest index in the split; NaN where the
        part has no case or an empty history. Items that never occur in training keep their random vectors.

    Raises:
        ValueError: for options that cannot be, or if nothing can be trained or validated on.
    """
    check_config(config)
    _check_split(split)
    seed_everything(seed)
    network = SASRec(split.num_items, config)
    inputs, labels = training_rows(split.train, config.max_items)
    able = np.flatnonzero(split.valid.histories.lengths > 0)
    held = split.valid.take(validation_rows(able, config.validate_users, seed))
    log.info("%d users, %d positions, %d items, %d parameters", len(inputs), len(labels.values), split.num_items,
             sum(parameter.numel() for parameter in network.parameters()))
    rows = fit(
        network,
        batches=lambda epoch: length_bucketed_batches(inputs.lengths, config.batch_size, BUCKET_BATCHES,
                                                      numpy_generator(seed, f"sasrec epoch {epoch}")),
        collate=lambda batch: collate(inputs, labels, batch),
        validate=lambda trained: validate(trained, held, config.filter_history),
        held_out=held, params=_training_params(config), checkpoints=checkpoints, accelerator=accelerator)
    tensors = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
    users = (split.train_users, split.valid.users, split.test.users)
    num_users = 1 + max(int(some.max(initial=-1)) for some in users)
    return Embedding(tensors["items.weight"], _meta(split, config, rows),
                     _user_vectors(network, split.valid, num_users), _user_vectors(network, split.test, num_users),
                     tensors, {"kind": "sasrec", "num_items": split.num_items, "options": asdict(config)})


def embed_users(histories: Ragged, tensors: Mapping[str, np.ndarray], model_json: Mapping[str, Any]) -> np.ndarray:
    """Embed histories with an exported model, ``Embedding.model`` and ``model_json``, as `embed_items` would have.

    Returns:
        ``(n, D)`` float32, NaN where a history is empty.

    Raises:
        ValueError: if a history holds an item that the model does not know.
    """
    num_items = model_json["num_items"]
    if len(histories.values) and not 0 <= histories.values.min() <= histories.values.max() < num_items:
        raise ValueError(f"histories hold items {histories.values.min()} to {histories.values.max()} but the model "
                         f"knows 0 to {num_items - 1}; run embed again on the data that they come from")
    network = SASRec(num_items, Config(**model_json["options"]))
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
    return network.encode(histories).numpy()


class SASRec(nn.Module):
    """The network; ``forward`` gives the loss of a batch from `collate`, ``encode`` the states of histories."""

    def __init__(self, num_items: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(num_items, config.dimensions)
        self.positions = nn.Embedding(config.max_items, config.dimensions)
        self.norm, self.dropout = nn.LayerNorm(config.dimensions), nn.Dropout(config.dropout)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=config.initializer_std)
        self.transformer = CausalTransformer(config.dimensions, config.layers, config.heads, config.feed_forward,
                                             config.dropout, config.initializer_std)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """The loss summed over the P positions, and P."""
        real = torch.arange(batch["inputs"].shape[1], device=batch["lengths"].device) < batch["lengths"][:, None]
        hidden, labels, config = self.states(batch["inputs"])[real], batch["labels"], self.config  # (P, D)
        if config.loss == "full":
            return full_softmax_loss(hidden, self.items.weight, labels), len(labels)
        drawn = torch.randint(len(self.items.weight) - (config.loss == "bce"), device=labels.device,
                              size=(len(labels) if config.loss == "bce" else config.negatives,))
        if config.loss == "sampled":
            return sampled_softmax_loss(hidden, self.items.weight, labels, drawn), len(labels)
        return bce_loss(hidden, self.items.weight, labels, drawn + (drawn >= labels)), len(labels)

    def states(self, inputs: Tensor) -> Tensor:
        """Hidden states ``(B, T, D)`` of items ``(B, T)``, T at most ``max_items``; padding may be any item."""
        embedded = self.items(inputs) + self.positions.weight[: inputs.shape[1]]
        return self.transformer(self.dropout(self.norm(embedded)))

    @torch.no_grad()
    def encode(self, histories: Ragged) -> Tensor:
        """States after the last item, ``(n, D)`` on the CPU; NaN where a history is empty."""
        self.eval()
        recent, device = histories.last(self.config.max_items), self.items.weight.device
        encoded = torch.full((len(histories), self.config.dimensions), torch.nan)
        for rows in in_order_batches(recent.lengths, ENCODED_TOGETHER):
            rows = rows[recent.lengths[rows] > 0]
            if len(rows):
                batch = recent.take(rows)
                states = self.states(torch.from_numpy(batch.padded(0)).to(device))
                last = torch.from_numpy(batch.lengths - 1).to(device)
                encoded[torch.from_numpy(rows)] = states[torch.arange(len(rows), device=device), last].float().cpu()
        return encoded


def training_rows(train: Ragged, max_items: int) -> tuple[Ragged, Ragged]:
    """Inputs and labels, label t being the item after input t, of users of two items or more; ``max_items`` at most."""
    rows = train.take(np.flatnonzero(train.lengths >= 2)).last(max_items + 1)
    first, last = np.zeros((2, len(rows.values)), dtype=bool)
    first[rows.offsets[:-1]] = last[rows.offsets[1:] - 1] = True
    offsets = rows.offsets - np.arange(len(rows) + 1)
    return Ragged(rows.values[~last], offsets), Ragged(rows.values[~first], offsets)


def collate(inputs: Ragged, labels: Ragged, batch: np.ndarray) -> dict[str, Tensor]:
    """``inputs (B, T)`` with 0 behind a user's ``lengths (B,)`` items, and the ``labels (P,)``, user after user."""
    chosen = inputs.take(batch)
    padded = chosen.padded(0, max(1, int(chosen.lengths.max(initial=0))))  # a process may get no user of a batch
    return {"inputs": torch.from_numpy(padded), "lengths": torch.from_numpy(chosen.lengths),
            "labels": torch.from_numpy(labels.take(batch).values).long()}


def validate(network: SASRec, cases: Cases, filter_history: bool) -> dict[str, float]:
    """NDCG and recall of the ten best items, for cases with a history, which the lists may leave out."""
    lists = best_items(network.encode(cases.histories), network.items.weight.detach(),
                       cases.histories if filter_history else None)
    return ranking_figures(lists, cases.targets)


def _meta(split: Split, config: Config, rows: list[dict[str, float]]) -> dict[str, Any]:
    never_trained = np.bincount(split.train.values, minlength=split.num_items) == 0
    return {"source": "sasrec", "dimensions": config.dimensions, "options": asdict(config),
            "untrained_items": int(never_trained.sum()), **training_summary(rows, EPOCH_FIGURE)}


def _user_vectors(network: SASRec, cases: Cases, num_users: int) -> np.ndarray:
    vectors = np.full((num_users, network.config.dimensions), np.nan, dtype=np.float32)
    vectors[cases.users] = network.encode(cases.histories).numpy()
    return vectors


def _training_params(config: Config) -> TrainingParams:
    return TrainingParams(
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, schedule="constant", warmup_share=0.0, clip_norm=CLIP_NORM,
        bucket_batches=BUCKET_BATCHES, validate_every=config.validate_every, validate_users=config.validate_users,
        patience=config.patience, early_stopping=EPOCH_FIGURE)


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    if config.dimensions % config.heads:
        raise ValueError(f"params: embed.sasrec.dimensions is {config.dimensions}, which {config.heads} heads do not divide; "
                         "change one of them")


def _check_split(split: Split) -> None:
    if split.num_items < 2 or not (split.train.lengths >= 2).any():
        raise ValueError(f"split: no training user has two items ({len(split.train)} users, {split.num_items} items); "
                         "sasrec learns which item follows another: use more data, or another embedding source")
    if len(split.valid) and not (split.valid.histories.lengths > 0).any():
        raise ValueError("split: no validation user has a history, so sasrec cannot choose its epoch; "
                         "change split.kind or split.ratios, or take another embedding source")
