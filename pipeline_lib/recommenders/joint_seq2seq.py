"""Tokenizer and encoder-decoder trained in turns, with two losses that align them.

Shapes: B examples, T items of a history, L levels without the suffix, K codewords of a level, N items, D dimensions of an
item vector, H of its latent, W width of the network, U different targets of a batch.
Source: Liu et al. 2025, "Generative Recommender with End-to-End Learnable Item Tokenization" (ETEGRec). Epochs count from 1
here. Departures from the released code: docs/papers.md.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.quantizers.collisions import place_in_bucket
from pipeline_lib.quantizers.residual import encode_residual
from pipeline_lib.quantizers.residual_vae import ResidualVAE
from pipeline_lib.recommenders.alignment import SIGNS, preference_semantic_alignment, sequence_item_alignment
from pipeline_lib.recommenders.code_seq2seq import (
    CodeSeq2Seq, Network, Ranker, make_decoder, validate_network, validation_sample,
)
from pipeline_lib.recommenders.state_map import state_map
from pipeline_lib.records import Examples, Identifiers, Model, RecommenderInputs
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.code_tokens import END, PAD, Vocabulary
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import Alternation, fit

log = logging.getLogger(__name__)
FINALS = ("finetune", "retrain", "none")
NO_ITEM = -1


@dataclass(frozen=True)
class Config(Network):
    """Options under ``recommender.joint_seq2seq``.

    ``cycle``: epochs of a cycle, of which the first trains the tokenizer, 0 to leave the tokenizer as `quantize` made it;
    ``alternate``: false trains both sides in every epoch; ``sia_weight`` and ``psa_weight``: mu and lambda of the paper;
    ``warmup_epochs``: first epochs without alignment; ``tokenizer_learning_rate``: beside training.learning_rate;
    ``suffix_size``: codes of the level that tells colliding items apart, 0 for as many as `quantize` needed;
    ``final``: what follows: ``finetune`` the recommender on the best codes, ``retrain`` it on them from scratch, ``none``.
    """

    cycle: int = 2
    alternate: bool = True
    sia_weight: float = 3e-4
    psa_weight: float = 1e-4
    sia_sign: str = "minus"
    residual_gradient: str = "identity"
    temperature: float = 0.07
    warmup_epochs: int = 10
    tokenizer_learning_rate: float = 1e-4
    commitment: float = 0.25
    suffix_size: int = 256
    final: str = "finetune"
    final_epochs: int = 100
    final_learning_rate: float = 5e-4
    final_patience: int = 10


class JointModel(nn.Module):
    """The recommender, the tokenizer, and two adapters that carry the recommender's states into the tokenizer's spaces.

    ``codes (N, L + 1)`` is a buffer, so that a checkpoint's codes and weights belong together. ``vectors (N, D)`` never
    change and are not saved.
    """

    def __init__(self, config: Config, vocabulary: Vocabulary, tokenizer: ResidualVAE, vectors: Tensor, codes: Tensor) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.recommender = CodeSeq2Seq(config, vocabulary)
        self.tokenizer = tokenizer
        latent, dimensions = tokenizer.quantizer.codebooks.shape[-1], vectors.shape[1]
        with torch.random.fork_rng(devices=[]):  # the recommender's dropout draws what it would without adapters
            self.sequence_adapter = nn.Linear(config.width, latent)  # mean encoder state -> z^E, eq. 8
            self.preference_adapter = nn.Linear(config.width, dimensions)  # first decoder state -> h^D, eq. 10
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("codes", codes)
        self.register_buffer("offsets", torch.tensor(vocabulary.level_offsets), persistent=False)
        self.trains_recommender, self.trains_tokenizer, self.aligned = True, False, False
        self.sums: dict[str, Tensor] = {}

    def take_turn(self, recommender: bool, tokenizer: bool, aligned: bool) -> None:
        """Say which sides the coming epochs train, and whether the alignment losses count."""
        self.trains_recommender, self.trains_tokenizer, self.aligned, self.sums = recommender, tokenizer, aligned, {}
        for part in (self.recommender, self.sequence_adapter, self.preference_adapter):
            part.requires_grad_(recommender)
        self.tokenizer.requires_grad_(tokenizer)

    def train(self, mode: bool = True) -> "JointModel":
        """Training mode; a recommender that is not trained now stays without dropout."""
        super().train(mode)
        self.recommender.train(mode and self.trains_recommender)
        return self

    def batch_of(self, examples: Examples, rows: np.ndarray) -> dict[str, Tensor]:
        """Token ids under the present codes, and the first row of each different target."""
        histories = torch.from_numpy(examples.histories.take(rows).padded(NO_ITEM)).long()
        targets = torch.from_numpy(examples.targets.values[examples.targets.offsets[:-1][rows]]).long()
        codes, offsets = self.codes.cpu(), self.offsets.cpu()
        tokens = (codes[histories.clamp(min=0)] + offsets).masked_fill((histories == NO_ITEM).unsqueeze(-1), PAD).flatten(1)
        ends = (tokens != PAD).sum(dim=1, keepdim=True)  # an item's tokens are none of them PAD
        tokens = nn.functional.pad(tokens, (0, 1), value=PAD).scatter(1, ends, END)
        first = torch.from_numpy(np.sort(np.unique(targets.numpy(), return_index=True)[1]))
        return {"input_ids": tokens, "attention_mask": (tokens != PAD).long(), "labels": codes[targets] + offsets,
                "first": first, "targets": targets[first]}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of this turn (eq. 12 and 13), as a sum over the terms that its main part averages."""
        sia_weight, psa_weight = self._weights()
        losses, count = {}, torch.tensor(len(batch["targets"]), device=self.codes.device)
        if self.trains_recommender or sia_weight or psa_weight:
            with torch.set_grad_enabled(self.trains_recommender and torch.is_grad_enabled()):
                encoded, decoded = self.recommender.states(batch)
        if self.trains_recommender:
            total, count = self.recommender.loss(decoded, batch["labels"])
            losses["recommendation"] = total / count.clamp(min=1)
        if (self.trains_tokenizer or sia_weight or psa_weight) and len(batch["targets"]):
            targets = self.vectors[batch["targets"]]
            semantics, quantized = self.tokenizer(targets)
            if self.trains_tokenizer:
                parts = self.tokenizer.losses(targets, semantics, quantized, self.config.commitment)
                losses["quantization"] = parts.reconstruction + parts.quantization
            if sia_weight:
                latents = self.sequence_latents(encoded, batch["attention_mask"])[batch["first"]]
                losses["sia"] = sequence_item_alignment(quantized.distances, self.tokenizer.quantizer(latents).distances,
                                                        self.config.sia_sign)
            if psa_weight:
                preferences = self.preference_adapter(decoded[batch["first"], 0])
                losses["psa"] = preference_semantic_alignment(preferences, semantics, self.config.temperature)
        self._note(losses, count)
        weights = {"sia": sia_weight, "psa": psa_weight}
        loss = sum(weights.get(name, 1.0) * value for name, value in losses.items() if name != "recommendation")
        return (total if self.trains_recommender else 0.0) + loss * count, count

    def sequence_latents(self, encoded: Tensor, attention_mask: Tensor) -> Tensor:
        """``(B, H)``: z^E from the mean of encoder states ``(B, T, W)`` over tokens that are no padding."""
        mask = attention_mask.unsqueeze(-1)
        return self.sequence_adapter((encoded * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))

    @torch.no_grad()
    def refresh_codes(self) -> float:
        """Encode all items anew, suffixes too; returns the share of items whose identifier changed.

        Raises:
            ValueError: if more items collide than there are suffixes.
        """
        codes = encode_residual(self.tokenizer.latents(self.vectors), self.tokenizer.quantizer.codebooks)[0].cpu().numpy()
        suffix, room = place_in_bucket(codes), self.vocabulary.level_sizes[-1]
        if suffix.max() >= room:
            raise ValueError(f"{suffix.max() + 1} items share their codes, but there are suffixes for {room}: set "
                             f"recommender.joint_seq2seq.suffix_size={suffix.max() + 1} or more, or a lower "
                             "tokenizer_learning_rate")
        fresh = torch.from_numpy(np.column_stack([codes, suffix])).to(self.codes)
        changed = (fresh != self.codes).any(dim=1).float().mean().item()
        self.codes.copy_(fresh)
        return changed

    def figures(self) -> dict[str, float]:
        """The mean of each loss since the turn began."""
        return {f"{name}_loss": (total / self.sums["count"]).item() for name, total in self.sums.items() if name != "count"}

    def _weights(self) -> tuple[float, float]:
        return (self.config.sia_weight, self.config.psa_weight) if self.aligned else (0.0, 0.0)

    def _note(self, losses: Mapping[str, Tensor], count: Tensor) -> None:
        if torch.is_grad_enabled():
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * count
            self.sums["count"] = self.sums.get("count", 0.0) + count.double()


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train in turns, then the recommender alone as ``config.final`` says; the best epoch by validation is kept.

    Raises:
        ValueError: for an unknown option, or identifiers that are not those of an RQ-VAE with suffixes.
    """
    _check(config, inputs.identifiers)
    seed_everything(seed)
    model = _build(config, inputs).to(accelerator.device)
    rows = _fit(model, inputs, training, checkpoints.part("joint"), accelerator, seed, _turns(model, config, training))
    log.info("trained in turns: %d epochs, tokenizer of the best one kept", len(rows))
    if config.final != "none":
        rows = rows + _final(model, inputs, config, training, checkpoints.part("final"), accelerator, seed,
                             best=_best(rows, training.early_stopping), epochs_before=len(rows))
    model.eval()
    examples, _ = validation_sample(inputs.examples["valid"], inputs.split.valid, 1000, seed)
    maps = state_map(*_states(model, examples, accelerator), seed) if accelerator.is_main_process else []
    tensors = {name: value.cpu().numpy() for name, value in model.state_dict().items() if name != "codes"}
    saved = {"kind": "joint_seq2seq", **asdict(config), "level_sizes": list(model.vocabulary.level_sizes)}
    return Model(tensors, saved, rows, item_codes=model.codes.cpu().numpy().astype(np.int32), tables={"alignment": maps})


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together, with the codes that it ended with."""
    config = Config(**{name: model.config[name] for name in Config.__dataclass_fields__})
    identifiers = replace(inputs.identifiers, codes=model.item_codes, level_sizes=tuple(model.config["level_sizes"]))
    network = _build(config, replace(inputs, identifiers=identifiers))
    state = {name: torch.from_numpy(value) for name, value in model.tensors.items()}
    network.load_state_dict({**state, "codes": network.codes})
    decoder = make_decoder(model.item_codes, network.vocabulary.level_sizes, inputs.split.warm, decode, accelerator, seed)
    network.to(accelerator.device)
    return Ranker(network.recommender, decoder, decode.batch_size, network.batch_of, accelerator)


def _check(config: Config, identifiers: Identifiers) -> None:
    if config.final not in FINALS:
        raise ValueError(f"params: recommender.joint_seq2seq.final is {config.final}; known: {', '.join(FINALS)}")
    if config.sia_sign not in SIGNS:
        raise ValueError(f"params: recommender.joint_seq2seq.sia_sign is {config.sia_sign}; known: {', '.join(SIGNS)}")
    if config.cycle < 0 or config.cycle == 1:
        raise ValueError(f"params: recommender.joint_seq2seq.cycle is {config.cycle}; expected 0, or 2 and more, since one "
                         "epoch of a cycle trains the tokenizer and the others the recommender")
    if identifiers.config["collisions"] != "suffix":
        raise ValueError(f"params: tokenizer.collisions={identifiers.config['collisions']} does not fit "
                         "recommender.kind=joint_seq2seq, whose codes change; set tokenizer.collisions=suffix")


def _build(config: Config, inputs: RecommenderInputs) -> JointModel:
    identifiers, made = inputs.identifiers, inputs.identifiers.config
    sizes = (*identifiers.level_sizes[:-1], max(identifiers.level_sizes[-1], config.suffix_size))
    tokenizer = ResidualVAE(made["dimensions"], made["hidden"], made["latent"], made["levels"], made["codebook_size"],
                            torch.Generator(), residual_gradient=config.residual_gradient)
    tokenizer.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in identifiers.tensors.items()})
    return JointModel(config, Vocabulary.build(sizes), tokenizer, torch.from_numpy(inputs.vectors),
                      torch.from_numpy(identifiers.codes).long())


def _turns(model: JointModel, config: Config, training: TrainingParams) -> Alternation:
    """Epoch e trains the tokenizer where (e - 1) mod cycle is 0, the recommender else."""
    def tokenizers_turn(epoch: int) -> bool:
        return config.cycle > 0 and (not config.alternate or (epoch - 1) % config.cycle == 0)

    def recommenders_turn(epoch: int) -> bool:
        return not config.alternate or not tokenizers_turn(epoch)

    def begin(epoch: int) -> None:
        model.take_turn(recommenders_turn(epoch), tokenizers_turn(epoch), aligned=epoch > config.warmup_epochs)

    def end(epoch: int) -> dict[str, float]:
        return model.figures() | ({"changed_codes": model.refresh_codes()} if tokenizers_turn(epoch) else {})

    share = config.tokenizer_learning_rate / training.learning_rate
    return Alternation(begin, end, recommenders_turn, lambda name: share if name.startswith("tokenizer.") else 1.0)


def _fit(model: JointModel, inputs: RecommenderInputs, training: TrainingParams, checkpoints: Checkpoints,
         accelerator: Accelerator, seed: int, turns: Alternation) -> list[dict[str, float]]:
    examples = inputs.examples["train"]
    lengths = examples.histories.lengths
    held = validation_sample(inputs.examples["valid"], inputs.split.valid, training.validate_users, seed)
    return fit(
        model,
        batches=lambda epoch: length_bucketed_batches(lengths, training.batch_size, training.bucket_batches,
                                                      numpy_generator(seed, f"epoch {epoch}")),
        collate=lambda rows: model.batch_of(examples, rows),
        validate=lambda network: validate_network(network.recommender, *held, network.codes.cpu().numpy(),
                                                  inputs.split.warm, training, network.batch_of, accelerator, seed),
        params=training, checkpoints=checkpoints, accelerator=accelerator, alternation=turns)


def _final(model: JointModel, inputs: RecommenderInputs, config: Config, training: TrainingParams,
           checkpoints: Checkpoints, accelerator: Accelerator, seed: int, best: float,
           epochs_before: int) -> list[dict[str, float]]:
    """Train the recommender alone on the codes as they are; a finetuning that made it no better is undone."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if config.final == "retrain":
        seed_everything(seed)
        model.recommender.load_state_dict(CodeSeq2Seq(config, model.vocabulary).state_dict())
    else:
        training = replace(training, epochs=config.final_epochs, learning_rate=config.final_learning_rate,
                           patience=config.final_patience, warmup_share=0.0)
    alone = Alternation(lambda epoch: model.take_turn(True, False, aligned=False), lambda epoch: {}, lambda epoch: True,
                        lambda name: 1.0)
    model.take_turn(True, False, aligned=False)
    rows = _fit(model, inputs, training, checkpoints, accelerator, seed, alone)
    if config.final == "finetune" and _best(rows, training.early_stopping) <= best:
        log.info("the final finetuning did not get better than the best epoch before it, which is kept")
        model.load_state_dict(before)
    return [{**row, "epoch": row["epoch"] + epochs_before} for row in rows]


def _best(rows: list[dict[str, float]], figure: str) -> float:
    """The best validation figure of some epochs, larger being better."""
    sign = -1 if figure == "loss" else 1
    return max((sign * row[f"valid_{figure}"] for row in rows if f"valid_{figure}" in row), default=-np.inf)


@torch.inference_mode()
def _states(model: JointModel, examples: Examples, accelerator: Accelerator) -> tuple[np.ndarray, np.ndarray]:
    """Preference states h^D and reconstructed targets, ``(n, D)`` each, of some users."""
    batch = {name: value.to(accelerator.device)
             for name, value in model.batch_of(examples, np.arange(len(examples))).items()}
    decoded = model.recommender.states(batch)[1]
    targets = torch.from_numpy(examples.targets.values[examples.targets.offsets[:-1]]).long().to(accelerator.device)
    return (model.preference_adapter(decoded[:, 0]).cpu().numpy(), model.tokenizer(model.vectors[targets])[0].cpu().numpy())
