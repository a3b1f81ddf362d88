"""Encoder-decoder over code tokens: a history of semantic IDs in, the next item's semantic ID out.

Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (TIGER), section 3.2.
"""

import logging
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator

from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.recommenders.code_seq2seq import (
    CodeSeq2Seq, Network, Ranker, collate, make_decoder, validate_network, validation_sample,
)
from pipeline_lib.records import Model, RecommenderInputs
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.code_tokens import Vocabulary
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config(Network):
    """Options under ``recommender.seq2seq``."""


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train on the examples of ``train``, choosing the epoch by validation users' ranking or loss."""
    vocabulary = Vocabulary.from_json(inputs.vocabulary)
    seed_everything(seed)
    model = CodeSeq2Seq(config, vocabulary)
    examples, lengths = inputs.examples["train"], inputs.examples["train"].input_ids.lengths
    held = validation_sample(inputs.examples["valid"], inputs.split.valid, training.validate_users, seed)
    log.info("%d examples of %.1f tokens, %d parameters", len(examples), lengths.mean(),
             sum(parameter.numel() for parameter in model.parameters()))
    rows = fit(
        model,
        batches=lambda epoch: length_bucketed_batches(lengths, training.batch_size, training.bucket_batches,
                                                      numpy_generator(seed, f"epoch {epoch}")),
        collate=lambda batch: collate(examples, batch),
        validate=lambda network: validate_network(network, *held, inputs.identifiers.codes, inputs.split, training,
                                                  collate, accelerator, seed),
        held_out=held[1], params=training, checkpoints=checkpoints, accelerator=accelerator)
    return Model({name: value.cpu().numpy() for name, value in model.state_dict().items()},
                 {"kind": "seq2seq", **asdict(config)}, rows)


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together for ranking."""
    network = CodeSeq2Seq(Config(**{name: model.config[name] for name in Config.__dataclass_fields__}),
                          Vocabulary.from_json(inputs.vocabulary))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in model.tensors.items()})
    decoder = make_decoder(inputs.identifiers.codes, inputs.identifiers.level_sizes, inputs.split, decode,
                           accelerator, seed)
    return Ranker(network.to(accelerator.device), decoder, decode.batch_size, collate, accelerator)
