"""A language model reads a history as sets of tokens, and answers one query a dimension: all items are scored at once.

Nothing is decoded, and an item's rank is one inner product: of its tokens, side by side, and of the weighted answers.
With ``history=causal`` a token sees earlier items and itself, so that one row a user trains all its positions;
``bidirectional`` takes one sample a position. Departures: docs/papers.md; the text stands in front of the history only.

Shapes: B users, I items, M tokens an item, N semantic tokens, W width.
Source: Lin et al. 2025, "Order-agnostic Identifier for Large Language Model-based Generative Recommendation".
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline_lib.backbones.causal_lm import FAMILIES
from pipeline_lib.decoding.ranking import Grounder, RankedUsers, ground_cases, make_grounder
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.quantizers.set_autoencoder import SetAutoencoder
from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, ShareBelowOne
from pipeline_lib.recommenders.set_backbones import new_backbone, saved_backbone
from pipeline_lib.recommenders.set_batches import packed_rows, single_rows
from pipeline_lib.recommenders.set_network import SetQueryNetwork, dimension_weights
from pipeline_lib.recommenders.set_validation import Held, answers_to, validate_at, validate_betas, weighted
from pipeline_lib.records import Cases, Examples, Model, RecommenderInputs
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import in_order_batches, length_bucketed_batches
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import fit
from pipeline_lib.training.validation import EPOCH_FIGURE, validation_rows

log = logging.getLogger(__name__)
MIDDLE = 0.5  # the beta that epochs are compared at while it is to be chosen


@dataclass(frozen=True)
class Config:
    """Options under ``recommender.set_query``.

    ``pretrained``: a name or folder, whose sizes replace ``family`` to ``dropout``; ``prompt``: in front of the
    history, for a pretrained backbone; ``beta``: null for the best on validation; ``positions``: of queries, ``flat``
    as in the released code; ``softmax``: the items that targets are told from.
    """

    backbone: Literal["t5", "causal_lm"] = "t5"
    pretrained: str | None = None
    family: Literal[*FAMILIES] = "qwen2"
    layers: PositiveInt = 6
    heads: PositiveInt = 8
    head_size: PositiveInt = 64
    width: PositiveInt = 512
    feed_forward: PositiveInt = 2048
    dropout: ShareBelowOne = 0.1
    prompt: bool = True
    max_positions: PositiveInt = 512
    lora_rank: NonNegativeInt = 0
    lora_alpha: PositiveFloat = 16.0
    lora_dropout: ShareBelowOne = 0.02
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj", "o_proj")
    history: Literal["causal", "bidirectional"] = "causal"
    attention: Literal["sparse", "plain"] = "sparse"
    positions: Literal["shared", "flat"] = "shared"
    queries: Literal["learned", "frozen"] = "learned"
    use_cf: bool = True
    head: Literal["tied", "free"] = "tied"
    alpha: NonNegativeFloat = 0.5
    beta: Share | None = None
    cold_cf: Literal["keep", "zero"] = "keep"
    softmax: Literal["all", "warm"] = "all"


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train backbone, queries and token sets together; then choose beta, on validation users both times.

    Epochs are compared at ``beta``, or at 0.5 where it is yet to be chosen. ``item_vectors`` of the result are the
    tokens of all items, and ``tables["beta"]`` the figures of each beta, where there are validation users.

    Raises:
        ValueError: for options that cannot be, identifiers that are not sets of the backbone's width, or no ``beta``
            where nobody is held out to choose it on.
    """
    _check(config, inputs)
    seed_everything(seed)
    backbone, saved = new_backbone(config)
    if backbone.width != inputs.identifiers.config["width"]:
        raise ValueError(f"params: tokenizer.set.width={inputs.identifiers.config['width']}, but the backbone is "
                         f"{backbone.width} wide; set tokenizer.set.width={backbone.width}")
    network = _network(backbone, config, inputs)
    packed = packed_rows(inputs.examples["train"])
    rows = packed if config.history == "causal" else single_rows(packed)
    if not len(rows):
        raise ValueError("no training example has a history; use more data, or split.kind=leave_one_out")
    sample = validation_rows(np.arange(len(inputs.split.valid)), training.validate_users, seed)
    held = Held(inputs.examples["valid"].take(sample).histories, inputs.split.valid.take(sample),
                inputs.split.filter_history)
    log.info("%d rows, %d targets, %d items of %d tokens, %d parameters, %d of them trained", len(rows),
             len(rows.targets.values), len(inputs.vectors), network.sets.set_size,
             *(sum(weight.numel() for weight in network.parameters() if weight.requires_grad or every)
               for every in (True, False)))
    beta = MIDDLE if config.beta is None else config.beta
    figures = fit(
        network,
        batches=lambda epoch: length_bucketed_batches(rows.histories.lengths, training.batch_size,
                                                      training.bucket_batches, numpy_generator(seed, f"epoch {epoch}")),
        collate=rows.collate, validate=lambda trained: validate_at(trained, held, beta, accelerator),
        held_out=held.cases, params=training, checkpoints=checkpoints, accelerator=accelerator)
    table = validate_betas(network, held, accelerator) if len(held.cases) else []
    chosen = max(table, key=lambda row: row[EPOCH_FIGURE])["beta"] if config.beta is None else config.beta
    log.info("beta %.1f, %s on validation users", chosen, "the best" if config.beta is None else "as given")
    with torch.inference_mode():
        corpus = network.eval().corpus().cpu().numpy()
    return Model({name: value.detach().cpu().numpy() for name, value in network.state_dict().items()},
                 {"kind": "set_query", **asdict(config), "lora_targets": list(config.lora_targets),
                  "chosen_beta": chosen, "sets": dict(inputs.identifiers.config), "saved_backbone": saved}, figures,
                 item_vectors=corpus, tables={"beta": table})


class Ranker:
    """A trained network with the tokens of all items; ``weights (M,)``: see `dimension_weights`."""

    def __init__(self, network: SetQueryNetwork, corpus: Tensor, weights: Tensor, grounder: Grounder,
                 batch_size: int, accelerator: Accelerator) -> None:
        self.network, self.corpus, self.weights, self.grounder = network, corpus, weights, grounder
        self.batch_size, self.accelerator = batch_size, accelerator

    def states(self, histories: Ragged) -> Tensor:
        """Weighted answers ``(B, M * W)`` float32."""
        return weighted(answers_to(self.network, self.corpus, histories), self.weights)

    def rank(self, examples: Examples, cases: Cases, part: str = "test") -> RankedUsers:
        """Ranked items of each case, ``examples`` having one row a case; ``part`` is not used."""
        self.network.eval()
        histories = examples.histories
        batches = in_order_batches(histories.lengths, self.batch_size)
        with torch.inference_mode(), self.accelerator.autocast():
            return ground_cases(cases, batches, lambda rows: self.states(histories.take(rows)), self.grounder,
                                self.accelerator)


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together, from its tensors and JSON alone; items are those of ``model.item_vectors``.

    ``decode.beta`` weighs the dimensions, where it is given, else the beta that was chosen in training.

    Raises:
        ValueError: if these are not as many as the split has.
    """
    saved, corpus = model.config, model.item_vectors
    if len(corpus) != inputs.split.num_items:
        raise ValueError(f"the model knows {len(corpus)} items, but the split has {inputs.split.num_items}; re-run "
                         "finetune, or add the new items with set_query.add_items")
    config = Config(**{name: saved[name] for name in Config.__dataclass_fields__})
    num_trained = model.tensors["head"].shape[0] if "head" in model.tensors else len(corpus)
    sets, empty = _sets(saved["sets"], config), torch.zeros(num_trained, 0)
    network = SetQueryNetwork(saved_backbone(config, saved["saved_backbone"]), sets, empty, empty,
                              free_head=config.head == "free", alpha=config.alpha)
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in model.tensors.items()})
    table = model.tensors["head"] if config.head == "free" else corpus
    grounder = make_grounder(np.ascontiguousarray(table.reshape(len(table), -1)), inputs.split, decode, "dot",
                             accelerator.device, numpy_generator(seed, "items of equal score"))
    beta = saved["chosen_beta"] if decode.beta is None else decode.beta
    weights = dimension_weights(beta, sets.set_size, sets.tokens).to(accelerator.device)
    return Ranker(network.to(accelerator.device), torch.from_numpy(corpus).to(accelerator.device), weights, grounder,
                  decode.batch_size, accelerator)


def add_items(model: Model, vectors: np.ndarray) -> Model:
    """The same model with items more, known by their texts alone: their collaborative token is zero.

    Args:
        vectors: ``(n, D)``, embedded by the source that the model was trained on.

    Raises:
        ValueError: if the model has no semantic tokens, a head of its own, or was trained on vectors of another size.
    """
    config = Config(**{name: model.config[name] for name in Config.__dataclass_fields__})
    made = model.config["sets"]
    if not made["tokens"] or config.head == "free":
        raise ValueError("this model cannot score items by text alone; train it with tokenizer.set.tokens=1 or more "
                         "and recommender.set_query.head=tied")
    if vectors.shape[1] != made["dimensions"]:
        raise ValueError(f"vectors have {vectors.shape[1]} dimensions, but the model was trained for "
                         f"{made['dimensions']}; embed them with the same source")
    sets = _sets(made, config)
    sets.load_state_dict({name.removeprefix("sets."): torch.from_numpy(np.array(value))
                          for name, value in model.tensors.items() if name.startswith("sets.")})
    tokens = np.zeros((len(vectors), sets.set_size, sets.width), dtype=np.float32)
    with torch.inference_mode():
        tokens[:, -sets.tokens :] = sets.semantic_tokens(torch.from_numpy(vectors)).numpy()
    return replace(model, item_vectors=np.concatenate([model.item_vectors, tokens]))


def _network(backbone: torch.nn.Module, config: Config, inputs: RecommenderInputs) -> SetQueryNetwork:
    made = inputs.identifiers
    sets = _sets(made.config, replace(config, use_cf=True))
    sets.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in made.tensors.items()})
    if not config.use_cf:
        sets.projection = None
    vectors, cf_vectors = (torch.from_numpy(np.ascontiguousarray(table.reshape(len(table), -1)))
                           for table in (inputs.vectors, inputs.cf_vectors))
    warm = torch.from_numpy(np.ascontiguousarray(inputs.split.warm))
    return SetQueryNetwork(backbone, sets, vectors, cf_vectors, alpha=config.alpha, free_head=config.head == "free",
                           without_cf=~warm if config.cold_cf == "zero" else None,
                           candidates=torch.nonzero(warm).flatten() if config.softmax == "warm" else None,
                           frozen_queries=config.queries == "frozen")


def _sets(made: Mapping, config: Config) -> SetAutoencoder:
    cf_dimensions = made["cf_dimensions"] if config.use_cf else 0
    return SetAutoencoder(made["dimensions"], cf_dimensions, made["hidden"], made["tokens"], made["width"],
                          torch.Generator())


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    if config.backbone == "causal_lm" and config.history == "bidirectional":
        raise ValueError("params: recommender.set_query.history=bidirectional does not fit backbone=causal_lm, whose "
                         "attention is causal; set history=causal")


def _check(config: Config, inputs: RecommenderInputs) -> None:
    check_config(config)
    made = inputs.identifiers.config
    if made.get("kind") != "set":
        raise ValueError(f"recommender.set_query reads token sets, but quantize made {made.get('kind')}; set "
                         "tokenizer.kind=set")
    for name, table in (("dimensions", inputs.vectors), ("cf_dimensions", inputs.cf_vectors)):
        if table.reshape(len(table), -1).shape[1] != made[name]:
            raise ValueError(f"tokens were made for {name}={made[name]}, but the vectors have "
                             f"{table.reshape(len(table), -1).shape[1]}; re-run quantize")
    if config.beta is None and not len(inputs.split.valid):
        raise ValueError("params: recommender.set_query.beta is null, but nobody is held out to choose it on "
                         "(split.refit=true); set it to what the run without refit chose")
