"""Several vectors an item: a decoder-only LM learns to compress an item's text into v dense tokens.

The LM is trained on after its pretraining, or from scratch on the items' texts alone: from the dense tokens it must say
each attribute (`embeddings.attribute_tasks`, `backbones.dense_tokens`). Departures from the paper: a batch counts
items, each encoded once for all of its tasks; positions of placeholders start at 0; held-out items choose the epoch.

Shapes: N items, v dense tokens, D width of the LM, m attributes.
Source: Liu et al. 2024, "STORE: Streamlining Semantic Tokenization and Generative Recommendation with a Single LLM".
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from pipeline_lib.backbones.causal_lm import (
    Backbone, Lora, add_lora, check_backbone, load_backbone, restore_backbone, save_backbone,
)
from pipeline_lib.backbones.dense_tokens import DenseTokenLM, answered
from pipeline_lib.backbones.item_losses import full_softmax_loss
from pipeline_lib.backbones.text_tokenizer import TextTokenizer
from pipeline_lib.embeddings.attribute_tasks import AttributeTasks, attribute_tasks, choose_attributes, training_texts
from pipeline_lib.params import TrainingParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Share
from pipeline_lib.records import Catalogue, Embedding, Split
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import in_order_batches, length_bucketed_batches
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.early_stopping import training_summary
from pipeline_lib.training.loop import fit

log = logging.getLogger(__name__)
BUCKET_BATCHES = 20
ENCODED_TOGETHER = 128  # items
PREDICTED_TOGETHER = 1024  # tokens, with the logits of a whole vocabulary each
EXAMPLES = 10  # items whose answers meta.json shows
LITTLE_TOLD = 0.4  # less is warned of: on ml-1m .32 after 6 epochs, where STORE fell below popularity, .83 after 15


@dataclass(frozen=True)
class Config:
    """Options under ``embed.dense``.

    ``tokens``: v; ``shown``: attributes in the text, ``title`` and ``text`` possible, empty for all that are text, not
    numbers or ids; ``predicted``: attributes that are only asked for; ``max_tokens``: of an attribute's value;
    ``batch_size`` counts items, ``validation_share`` is that of items held out to choose the epoch by.
    """

    backbone: Backbone = field(default_factory=Backbone)
    lora: Lora = field(default_factory=lambda: Lora(rank=0))
    tokens: PositiveInt = 4
    shown: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()
    max_tokens: PositiveInt = 48
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.01
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    warmup_share: Share = 0.05
    clip_norm: PositiveFloat = 1.0
    patience: PositiveInt = 3
    validation_share: float = 0.05


def embed_items(catalogue: Catalogue, split: Split, config: Config, *, checkpoints: Checkpoints,
                accelerator: Accelerator, seed: int) -> Embedding:
    """Train the LM on the items' texts and export every item's dense tokens ``(N, v, D)``.

    Args:
        split: not used; here since every embedding source takes the same arguments.

    Raises:
        ValueError: for options that cannot be, data without texts, or a backbone that cannot be had.
    """
    check_config(config)
    shown = choose_attributes(catalogue, config.shown, config.predicted)
    names = (*shown, *config.predicted)
    seed_everything(seed)
    model, tokenizer = load_backbone(config.backbone, training_texts(catalogue, names))
    tasks = attribute_tasks(catalogue, shown, config.predicted, tokenizer, config.max_tokens)
    _check_lengths(tasks, config.tokens, model.config.max_position_embeddings)
    network = DenseTokenLM(add_lora(model, config.lora), config.tokens, len(names))
    trained_on, held = _held_out(tasks, config.validation_share, seed)
    log.info("%d items, %d tasks (%s), %d held out, %d trained parameters", len(catalogue), len(tasks.kinds),
             ", ".join(names), len(held),
             sum(weight.numel() for weight in network.parameters() if weight.requires_grad))
    rows = fit(
        network,
        batches=lambda epoch: [trained_on[batch] for batch in length_bucketed_batches(
            tasks.lengths[trained_on], config.batch_size, BUCKET_BATCHES,
            numpy_generator(seed, f"dense epoch {epoch}"))],
        collate=tasks.collate,
        validate=lambda trained: validate(trained, tasks, held, names),
        held_out=held, params=_training_params(config), checkpoints=checkpoints, accelerator=accelerator)
    tensors, model_json = save_backbone(network.model, tokenizer, config.backbone, config.lora)
    tensors |= {name: getattr(network, name).detach().cpu().numpy() for name in ("dense_tokens", "task_tokens")}
    model_json |= {"kind": "dense", "shown": shown, "predicted": config.predicted, "max_tokens": config.max_tokens}
    told = told_share(network, tasks, held, names)
    if told is not None and told < LITTLE_TOLD:
        log.warning("the dense tokens tell little: answers of held-out items cost only %.0f%% less from an item's own "
                    "than from another's; train more epochs (the best was %d of %d), or start from a backbone that "
                    "knows the language", 100 * told, training_summary(rows, "loss")["best_epoch"], config.epochs)
    meta = {**_meta(config, names, len(shown), rows), "told_share": told,
            "reconstructions": reconstructions(network, tasks, held[:EXAMPLES], tokenizer, names)}
    return Embedding(encode(network, tasks.content), {**meta, "dimensions": model.config.hidden_size}, model=tensors,
                     model_json=model_json)


def embed_new_items(catalogue: Catalogue, takers: Ragged, tensors: Mapping[str, np.ndarray],
                    model_json: Mapping[str, Any]) -> np.ndarray:
    """Dense tokens ``(n, v, D)`` float32 of new items, from their texts alone, as `embed_items` would have made them.

    Args:
        catalogue: an attribute that it lacks is taken as missing.
        takers: not used; here since every source that embeds new items takes the same arguments.
        tensors, model_json: ``Embedding.model`` and ``model_json``.
    """
    network, tokenizer = restore_network(tensors, model_json)
    tasks = attribute_tasks(catalogue, model_json["shown"], (), tokenizer, model_json["max_tokens"])
    return encode(network, tasks.content)


def restore_network(tensors: Mapping[str, np.ndarray],
                    model_json: Mapping[str, Any]) -> tuple[DenseTokenLM, TextTokenizer]:
    """The trained network, adapters merged, in evaluation mode, with its text tokenizer."""
    model, tokenizer = restore_backbone(tensors, model_json)
    network = DenseTokenLM(model, len(tensors["dense_tokens"]), len(tensors["task_tokens"]))
    with torch.no_grad():
        for name in ("dense_tokens", "task_tokens"):
            getattr(network, name).copy_(torch.from_numpy(np.array(tensors[name])))
    return network.eval(), tokenizer


@torch.no_grad()
def encode(network: DenseTokenLM, content: Ragged) -> np.ndarray:
    """Dense tokens ``(N, v, D)`` float32 of N texts, whatever the batches."""
    network.eval()
    device, (count, width) = network.dense_tokens.device, network.dense_tokens.shape
    encoded = np.empty((len(content), count, width), dtype=np.float32)
    for rows in in_order_batches(content.lengths, ENCODED_TOGETHER):
        batch = content.take(rows)
        ids, lengths = (torch.from_numpy(values).long().to(device) for values in (batch.padded(0), batch.lengths))
        encoded[rows] = network.encode(ids, lengths).float().cpu().numpy()
    return encoded


@torch.no_grad()
def validate(network: DenseTokenLM, tasks: AttributeTasks, items: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Cross entropy an answer token of the items' tasks, and the share of tokens told right, by attribute."""
    device, head, loss = network.dense_tokens.device, network.model.get_output_embeddings(), 0.0
    right, count = np.zeros((2, len(names)))
    for rows in in_order_batches(tasks.lengths[items], ENCODED_TOGETHER):
        batch = {name: values.to(device) for name, values in tasks.collate(items[rows]).items()}
        states, labels = network.answer_states(batch), batch["answers"][answered(batch)]
        kinds = batch["kind"].repeat_interleave(batch["answer_lengths"]).cpu().numpy()
        loss += float(full_softmax_loss(states, head.weight, labels))
        said = torch.cat([head(part).argmax(dim=-1) for part in states.split(PREDICTED_TOGETHER)])
        right += np.bincount(kinds, (said == labels).cpu().numpy(), minlength=len(names))
        count += np.bincount(kinds, minlength=len(names))
    return {"loss": loss / float(count.sum()),
            **{f"accuracy_{name}": float(right[kind] / count[kind]) for kind, name in enumerate(names) if count[kind]}}


def told_share(network: DenseTokenLM, tasks: AttributeTasks, items: np.ndarray, names: Sequence[str]) -> float | None:
    """What the dense tokens tell of the items, apart from what the LM says of any item: 0 nothing, 1 all.

    1 less the cross entropy of the items' answers, over that of the same answers given the dense tokens of another of
    the items; None for fewer than two.
    """
    if len(items) < 2:
        return None
    network.eval()
    source = np.arange(len(tasks.content))
    source[items] = np.roll(items, 1)
    others = replace(tasks, content=tasks.content.take(source))
    return 1 - validate(network, tasks, items, names)["loss"] / validate(network, others, items, names)["loss"]


def reconstructions(network: DenseTokenLM, tasks: AttributeTasks, items: np.ndarray, tokenizer: TextTokenizer,
                    names: Sequence[str]) -> list[dict[str, Any]]:
    """For each task of the items: what the LM says from the dense tokens alone, greedily, beside what is so."""
    network.eval()
    device, end = network.dense_tokens.device, tokenizer.id_of(tokenizer.end)
    of_items = tasks.by_item.take(items)
    kinds, answers = tasks.kinds[of_items.values], tasks.answers.take(of_items.values)
    dense = torch.from_numpy(encode(network, tasks.content.take(items))[of_items.row_of_value]).to(device)
    said = network.answer(dense, torch.from_numpy(kinds).to(device), end, int(answers.lengths.max(initial=1))).tolist()
    return [{"item": int(items[row]), "attribute": names[kind], "original": tokenizer.decode(answer[:-1]).strip(),
             "decoded": tokenizer.decode(tokens[: tokens.index(end)] if end in tokens else tokens).strip()}
            for row, kind, answer, tokens in zip(of_items.row_of_value, kinds, answers, said, strict=True)]


def _held_out(tasks: AttributeTasks, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items with a task: those to train on, and those to choose the epoch by, each in order."""
    items = np.flatnonzero(tasks.by_item.lengths)
    count = max(1, round(share * len(items)))
    if len(items) <= count:
        raise ValueError(f"only {len(items)} items have a text, and {count} of them are held out, so dense has none to "
                         "train on; lower embed.dense.validation_share, or take another source")
    order = numpy_generator(seed, "dense validation").permutation(items)
    return np.sort(order[count:]), np.sort(order[:count])


def _meta(config: Config, names: Sequence[str], num_shown: int, rows: list[dict[str, float]]) -> dict[str, Any]:
    return {"source": "dense", "vectors_per_item": config.tokens, "options": asdict(config),
            "tasks": {name: "reconstruction" if kind < num_shown else "generation" for kind, name in enumerate(names)},
            **training_summary(rows, "loss")}


def _training_params(config: Config) -> TrainingParams:
    return TrainingParams(
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, schedule=config.schedule, warmup_share=config.warmup_share,
        clip_norm=config.clip_norm, bucket_batches=BUCKET_BATCHES, patience=config.patience, early_stopping="loss")


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    check_backbone(config.backbone, "embed.dense.backbone")
    if not 0 < config.validation_share < 1:
        raise ValueError(f"params: embed.dense.validation_share is {config.validation_share}; expected a share above 0 "
                         "and below 1")


def _check_lengths(tasks: AttributeTasks, num_tokens: int, max_positions: int) -> None:
    longest = num_tokens + int(max(tasks.content.lengths.max(initial=0), tasks.answers.lengths.max(initial=0)))
    if longest > max_positions:
        raise ValueError(f"the longest item has {longest} tokens, but the LM has {max_positions} positions; lower "
                         "embed.dense.max_tokens, show fewer attributes, or raise embed.dense.backbone.max_positions")
