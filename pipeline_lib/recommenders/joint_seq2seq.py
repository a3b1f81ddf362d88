"""Tokenizer and encoder-decoder trained in turns, with two losses that align them.

Shapes: D dimensions of an item vector.
Source: Liu et al. 2025, "Generative Recommender with End-to-End Learnable Item Tokenization" (ETEGRec). Epochs count
from 1 here. Departures from the released code: docs/papers.md.
"""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator

from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.quantizers.residual import RESIDUAL_GRADIENTS
from pipeline_lib.quantizers.residual_vae import ResidualVAE
from pipeline_lib.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pipeline_lib.recommenders.alignment import SIGNS
from pipeline_lib.recommenders.code_seq2seq import (
    CodeSeq2Seq, Network, Ranker, make_decoder, validate_network, validation_sample,
)
from pipeline_lib.recommenders.joint_network import JointModel
from pipeline_lib.records import Examples, Identifiers, Model, RecommenderInputs
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.code_tokens import Vocabulary
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.early_stopping import no_better
from pipeline_lib.training.loop import Alternation, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config(Network):
    """Options under ``recommender.joint_seq2seq``.

    ``cycle``: epochs of a cycle, of which the first trains the tokenizer, 0 to leave the tokenizer as `quantize` made
    it; ``alternate``: false trains both sides in every epoch; ``sia_weight`` and ``psa_weight``: mu and lambda of the
    paper; ``warmup_epochs``: first epochs without alignment; ``tokenizer_learning_rate``: beside
    training.learning_rate; ``suffix_size``: codes of the level that tells colliding items apart, 0 for as many as
    `quantize` needed; where more collide, some take another last code; ``final``: what follows: ``finetune`` the
    recommender on the best codes, ``retrain`` it on them from scratch, ``none``.
    """

    softmax: Literal["vocabulary", "level"] = "level"
    cycle: NonNegativeInt = 2
    alternate: bool = True
    sia_weight: NonNegativeFloat = 3e-4
    psa_weight: NonNegativeFloat = 1e-4
    sia_sign: Literal[*SIGNS] = "minus"
    residual_gradient: Literal[*RESIDUAL_GRADIENTS] = "identity"
    temperature: PositiveFloat = 0.07
    warmup_epochs: NonNegativeInt = 10
    tokenizer_learning_rate: PositiveFloat = 1e-4
    commitment: NonNegativeFloat = 0.25
    suffix_size: NonNegativeInt = 256
    final: Literal["finetune", "retrain", "none"] = "finetune"
    final_epochs: PositiveInt = 100
    final_learning_rate: PositiveFloat = 5e-4
    final_patience: PositiveInt = 10


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train in turns, then the recommender alone as ``config.final`` says; the best epoch by validation is kept.

    Raises:
        ValueError: for an option that cannot be, or identifiers that are not those of an RQ-VAE with suffixes.
    """
    from pipeline_lib.recommenders.state_map import state_map  # scikit-learn: nobody else needs it, nor should it be missed late

    check_config(config)
    _refuse_other_collisions(inputs.identifiers)
    seed_everything(seed)
    model = _build(config, inputs).to(accelerator.device)
    rows = _fit(model, inputs, training, checkpoints.part("joint"), accelerator, seed, _turns(model, config, training))
    log.info("trained in turns: %d epochs, tokenizer of the best one kept", len(rows))
    if config.final != "none":
        rows = rows + _final(model, inputs, config, training, checkpoints.part("final"), accelerator, seed, rows)
    model.eval()
    examples, _ = validation_sample(inputs.examples["valid"], inputs.split.valid, 1000, seed)
    drawn = accelerator.is_main_process and len(examples) > 0
    maps = state_map(*_states(model, examples, accelerator), seed) if drawn else []
    tensors = {name: value.cpu().numpy() for name, value in model.state_dict().items() if name != "codes"}
    saved = {"kind": "joint_seq2seq", **asdict(config), "level_sizes": list(model.vocabulary.level_sizes)}
    return Model(tensors, saved, rows, item_codes=model.codes.cpu().numpy().astype(np.int32),
                 tables={"alignment": maps})


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together, with the codes that it ended with."""
    config = Config(**{name: model.config[name] for name in Config.__dataclass_fields__})
    identifiers = replace(inputs.identifiers, codes=model.item_codes, level_sizes=tuple(model.config["level_sizes"]))
    network = _build(config, replace(inputs, identifiers=identifiers))
    state = {name: torch.from_numpy(value) for name, value in model.tensors.items()}
    network.load_state_dict({**state, "codes": network.codes})
    decoder = make_decoder(model.item_codes, network.vocabulary.level_sizes, inputs.split, decode, accelerator, seed)
    network.to(accelerator.device)
    return Ranker(network.recommender, decoder, decode.batch_size, network.batch_of, accelerator)


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    if config.cycle == 1:
        raise ValueError(f"params: recommender.joint_seq2seq.cycle is {config.cycle}; expected 0, or 2 and more, since "
                         "one epoch of a cycle trains the tokenizer and the others the recommender")


def _refuse_other_collisions(identifiers: Identifiers) -> None:
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
                      torch.from_numpy(identifiers.codes).long(), sia_weight=config.sia_weight,
                      psa_weight=config.psa_weight, sia_sign=config.sia_sign, temperature=config.temperature,
                      commitment=config.commitment)


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
                                                  inputs.split, training, network.batch_of, accelerator, seed),
        held_out=held[1], params=training, checkpoints=checkpoints, accelerator=accelerator, alternation=turns)


def _final(model: JointModel, inputs: RecommenderInputs, config: Config, training: TrainingParams,
           checkpoints: Checkpoints, accelerator: Accelerator, seed: int,
           before: list[dict[str, float]]) -> list[dict[str, float]]:
    """Train the recommender alone on the codes as they are; a finetuning that made it no better is undone."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
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
    if config.final == "finetune" and no_better(rows, before, training.early_stopping):
        log.info("the final finetuning did not get better than the best epoch before it, which is kept")
        model.load_state_dict(weights)
    return [{**row, "epoch": row["epoch"] + len(before)} for row in rows]


@torch.inference_mode()
def _states(model: JointModel, examples: Examples, accelerator: Accelerator) -> tuple[np.ndarray, np.ndarray]:
    """Preference states h^D and reconstructed targets, ``(n, D)`` each, of some users."""
    batch = {name: value.to(accelerator.device)
             for name, value in model.batch_of(examples, np.arange(len(examples))).items()}
    decoded = model.recommender.states(batch)[1]
    targets = torch.from_numpy(examples.targets.values[examples.targets.offsets[:-1]]).long().to(accelerator.device)
    return (model.preference_adapter(decoded[:, 0]).cpu().numpy(),
            model.tokenizer(model.vectors[targets])[0].cpu().numpy())
