"""Encoder-decoder over code tokens: a history of semantic IDs in, the next item's semantic ID out.

Shapes: B examples, T tokens of a history, L levels, V vocabulary.
Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (TIGER), section 3.2.
"""

import logging
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline_lib.artifacts import Cases, Examples, Model, RecommenderInputs
from pipeline_lib.backbones.t5 import T5Decoder, build_t5
from pipeline_lib.decoding.ranking import Decoder, RankedUsers, candidate_tries, rank_cases
from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import in_order_batches, length_bucketed_batches
from pipeline_lib.sequences.code_tokens import PAD, Vocabulary
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import fit

log = logging.getLogger(__name__)
IGNORED = -100
VALIDATION_K = 10


@dataclass(frozen=True)
class Config:
    """Options under ``recommender.seq2seq``: the sizes of a T5 trained from scratch."""

    layers: int
    heads: int
    head_size: int
    width: int
    feed_forward: int
    dropout: float


class CodeSeq2Seq(nn.Module):
    """A T5 whose vocabulary is code tokens; ``forward`` gives the summed cross-entropy of all label tokens."""

    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.t5 = build_t5(vocabulary_size, config.width, config.layers, config.heads, config.head_size,
                           config.feed_forward, config.dropout, pad_id=PAD)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``input_ids``, ``attention_mask (B, T)`` and ``labels (B, L)``, -100 where there is no label."""
        logits = self.t5(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                         labels=batch["labels"]).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED,
                               reduction="sum")
        return loss, (batch["labels"] != IGNORED).sum()


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train on the examples of ``train``, choosing the epoch by validation users' ranking or loss."""
    vocabulary = Vocabulary.from_json(inputs.vocabulary)
    seed_everything(seed)
    model = CodeSeq2Seq(config, vocabulary.size)
    examples, lengths = inputs.examples["train"], inputs.examples["train"].input_ids.lengths
    log.info("%d examples of %.1f tokens, %d parameters", len(examples), lengths.mean(),
             sum(parameter.numel() for parameter in model.parameters()))
    rows = fit(
        model,
        batches=lambda epoch: length_bucketed_batches(lengths, training.batch_size, training.bucket_batches,
                                                      numpy_generator(seed, f"epoch {epoch}")),
        collate=lambda batch: collate(examples, batch),
        validate=_validation(inputs, training, accelerator, seed),
        params=training, checkpoints=checkpoints, accelerator=accelerator)
    saved = {"kind": "seq2seq", **asdict(config), "vocabulary_size": vocabulary.size}
    return Model({name: value.cpu().numpy() for name, value in model.state_dict().items()}, saved, rows)


class Ranker:
    """A trained model with the tries of its items."""

    def __init__(self, model: CodeSeq2Seq, vocabulary: Vocabulary, decoder: Decoder, batch_size: int,
                 accelerator: Accelerator) -> None:
        self.model, self.vocabulary, self.decoder = model, vocabulary, decoder
        self.batch_size, self.accelerator = batch_size, accelerator

    def rank(self, examples: Examples, cases: Cases) -> RankedUsers:
        """Ranked items of each case; ``examples`` has one row a case, in the same order."""
        t5_decoder = T5Decoder(self.model.t5)

        def start(rows: np.ndarray):
            batch = {name: value.to(self.accelerator.device) for name, value in collate(examples, rows).items()}
            context = t5_decoder.encode(batch["input_ids"], batch["attention_mask"])
            return lambda: t5_decoder.next_log_probs(context, self.vocabulary.level_offsets, self.vocabulary.level_sizes)

        self.model.eval()
        batches = in_order_batches(examples.input_ids.lengths, self.batch_size)
        with torch.inference_mode(), self.accelerator.autocast():
            return rank_cases(cases, batches, start, self.decoder, self.accelerator)


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together for ranking."""
    sizes = {name: model.config[name] for name in Config.__dataclass_fields__}
    network = CodeSeq2Seq(Config(**sizes), model.config["vocabulary_size"])
    network.load_state_dict({name: torch.from_numpy(value) for name, value in model.tensors.items()})
    decoder = make_decoder(inputs, decode, accelerator, seed)
    return Ranker(network.to(accelerator.device), Vocabulary.from_json(inputs.vocabulary), decoder, decode.batch_size,
                  accelerator)


def make_decoder(inputs: RecommenderInputs, decode: DecodeParams, accelerator: Accelerator, seed: int) -> Decoder:
    tries = candidate_tries(inputs.identifiers.codes, inputs.identifiers.level_sizes,
                            inputs.split.warm if decode.candidate_sets else None, accelerator.device)
    order = numpy_generator(seed, "items that share an identifier").permutation(len(inputs.identifiers.codes))
    return Decoder(tries, decode.kind, decode.beam_size, decode.top_k, order, decode.filter_history)


def collate(examples: Examples, rows: np.ndarray) -> dict[str, Tensor]:
    """Pad the rows' tokens to the longest of them."""
    input_ids = torch.from_numpy(examples.input_ids.take(rows).padded(PAD)).long()
    labels = torch.from_numpy(examples.labels.take(rows).padded(IGNORED)).long()
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": labels}


def _validation(inputs: RecommenderInputs, training: TrainingParams, accelerator: Accelerator, seed: int):
    """Figures of a fixed sample of validation users: loss a token, and NDCG and recall of the best ten items."""
    examples, cases = inputs.examples["valid"], inputs.split.valid
    if training.validate_users is not None and training.validate_users < len(cases):
        rows = np.sort(numpy_generator(seed, "validation users").permutation(len(cases))[: training.validate_users])
        examples, cases = examples.take(rows), cases.take(rows)
    decode = DecodeParams("beam", beam_size=VALIDATION_K, top_k=VALIDATION_K)
    decoder = make_decoder(inputs, decode, accelerator, seed)
    vocabulary = Vocabulary.from_json(inputs.vocabulary)

    def validate(model: CodeSeq2Seq) -> dict[str, float]:
        figures = {"loss": _mean_loss(model, examples, decode.batch_size, accelerator)}
        if training.early_stopping != "loss":
            ranker = Ranker(model, vocabulary, decoder, decode.batch_size, accelerator)
            ranked = ranker.rank(examples, cases).rankings[0].items
            measured = ranking_metrics(ranked, cases.targets, (VALIDATION_K,))
            figures |= {name: float(np.mean(measured[name])) for name in (f"ndcg@{VALIDATION_K}", f"recall@{VALIDATION_K}")}
        return figures

    return validate


@torch.inference_mode()
def _mean_loss(model: CodeSeq2Seq, examples: Examples, batch_size: int, accelerator: Accelerator) -> float:
    sums = torch.zeros(2, dtype=torch.float64)
    for rows in in_order_batches(examples.input_ids.lengths, batch_size):
        batch = {name: value.to(accelerator.device) for name, value in collate(examples, rows).items()}
        with accelerator.autocast():
            loss, count = model(batch)
        sums += torch.tensor([loss.item(), count.item()], dtype=torch.float64)
    return float(sums[0] / sums[1])
