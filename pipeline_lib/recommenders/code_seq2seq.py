"""What the encoder-decoders over code tokens share: the network, its loss, its validation and its ranking.

Shapes: B examples, T tokens of a history, L levels, K codes of a level, V vocabulary, D width.
Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (TIGER), section 3.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline_lib.backbones.empty_share import no_rows
from pipeline_lib.backbones.t5 import T5Decoder, build_t5
from pipeline_lib.decoding.ranking import Decoder, RankedUsers, candidate_tries, search_cases
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.ranges import PositiveFloat, PositiveInt, ShareBelowOne
from pipeline_lib.records import Cases, Examples, Split
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.sequences.batches import in_order_batches
from pipeline_lib.sequences.code_tokens import END, PAD, Vocabulary
from pipeline_lib.training.validation import VALIDATION_K, mean_loss, ranking_figures, validation_rows

IGNORED = -100
Collate = Callable[[Examples, np.ndarray], dict[str, Tensor]]


@dataclass(frozen=True)
class Network:
    """The sizes of a T5 trained from scratch; ``softmax``: over the whole ``vocabulary``, or the codes of a ``level``.

    ``softmax_temperature``: tau, which the training and validation loss divides logits by; below 1 it presses harder on
    hard negatives (Wang et al. 2024, LETTER, ranking-guided generation loss). Ranking does not divide: its scores are
    those of tau = 1.
    """

    layers: PositiveInt
    heads: PositiveInt
    head_size: PositiveInt
    width: PositiveInt
    feed_forward: PositiveInt
    dropout: ShareBelowOne
    softmax: Literal["vocabulary", "level"] = "vocabulary"
    softmax_temperature: PositiveFloat = 1.0


class CodeSeq2Seq(nn.Module):
    """A T5 whose vocabulary is code tokens; ``forward`` gives the summed cross-entropy of all label tokens.

    The tokens of a level have rows of their own in the one table, which the output shares: as good as one table a
    level.
    """

    def __init__(self, network: Network, vocabulary: Vocabulary) -> None:
        super().__init__()
        if network.softmax == "level" and vocabulary.has_ends:
            raise ValueError("params: softmax=level needs identifiers of one length, but these vary, and their end "
                             "belongs to no level; set softmax=vocabulary")
        self.temperature = network.softmax_temperature
        self.vocabulary, self.over_level = vocabulary, network.softmax == "level"
        self.t5 = build_t5(vocabulary.size, network.width, network.layers, network.heads, network.head_size,
                           network.feed_forward, network.dropout, pad_id=PAD)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | int]:
        """``input_ids``, ``attention_mask (B, T)``, ``labels (B, L)``: -100 where there is none; ends are labels."""
        if not len(batch["labels"]):  # a process may get no row of a batch, which T5 does not take
            return no_rows(self)
        return self.loss(self.states(batch)[1], batch["labels"])

    def states(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Last states of encoder ``(B, T, D)`` and decoder ``(B, L, D)``; decoder state l predicts code l."""
        t5, labels = self.t5, batch["labels"]
        start = labels.new_full((len(labels), 1), PAD)
        encoded = t5.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        decoded = t5.decoder(torch.cat([start, labels[:, :-1].clamp(min=PAD)], dim=1), encoder_hidden_states=encoded,
                             encoder_attention_mask=batch["attention_mask"], use_cache=False).last_hidden_state
        return encoded, decoded

    def loss(self, decoded: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy of ``labels (B, L)`` given ``decoded (B, L, D)``, and how many labels there were."""
        decoded, table = decoded * (self.t5.config.d_model**-0.5 / self.temperature), self.t5.lm_head.weight
        count = (labels != IGNORED).sum()
        if not self.over_level:
            logits = F.linear(decoded, table).float().flatten(0, 1)
            return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"), count
        loss = decoded.new_zeros((), dtype=torch.float32)
        for level, (offset, size) in enumerate(zip(self.vocabulary.level_offsets, self.vocabulary.level_sizes)):
            logits = F.linear(decoded[:, level], table[offset : offset + size]).float()
            wanted = torch.where(labels[:, level] == IGNORED, IGNORED, labels[:, level] - offset)
            loss = loss + F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        return loss, count


class Ranker:
    """A trained network with the tries of its items; ``collate`` makes its batches."""

    def __init__(self, model: CodeSeq2Seq, decoder: Decoder, batch_size: int, collate: Collate,
                 accelerator: Accelerator) -> None:
        self.model, self.decoder, self.batch_size, self.collate = model, decoder, batch_size, collate
        self.accelerator = accelerator

    def rank(self, examples: Examples, cases: Cases, part: str = "test") -> RankedUsers:
        """Ranked items of each case; ``examples`` has one row a case, in the same order; ``part`` does not matter."""
        t5_decoder, vocabulary = T5Decoder(self.model.t5), self.model.vocabulary
        end = END if vocabulary.has_ends else None

        def start(rows: np.ndarray):
            batch = {name: value.to(self.accelerator.device) for name, value in self.collate(examples, rows).items()}
            context = t5_decoder.encode(batch["input_ids"], batch["attention_mask"])
            return lambda: t5_decoder.next_log_probs(context, *vocabulary.search_levels, end,
                                                     over_level=self.model.over_level)

        self.model.eval()
        batches = in_order_batches(examples.histories.lengths, self.batch_size)
        with torch.inference_mode(), self.accelerator.autocast():
            return search_cases(cases, batches, start, self.decoder, self.accelerator)


def make_decoder(codes: np.ndarray, level_sizes: tuple[int, ...], split: Split, decode: DecodeParams,
                 accelerator: Accelerator, seed: int) -> Decoder:
    """Tries of ``codes (N, L)``, and of the parts of ``split`` where ``decode`` asks for them."""
    tries = candidate_tries(codes, level_sizes, split.parts if decode.candidate_sets else {}, accelerator.device)
    order = numpy_generator(seed, "items that share an identifier").permutation(len(codes))
    return Decoder(tries, decode.kind, decode.beam_size, decode.top_k, order, decode.filter_history)


def collate(examples: Examples, rows: np.ndarray) -> dict[str, Tensor]:
    """Pad the rows' tokens to the longest of them."""
    input_ids = torch.from_numpy(examples.input_ids.take(rows).padded(PAD)).long()
    labels = torch.from_numpy(examples.labels.take(rows).padded(IGNORED)).long()
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": labels}


def validation_sample(examples: Examples, cases: Cases, users: int | None, seed: int) -> tuple[Examples, Cases]:
    """A fixed sample of ``users`` validation users, None for all."""
    rows = validation_rows(np.arange(len(cases)), users, seed)
    return examples.take(rows), cases.take(rows)


def validate_network(network: CodeSeq2Seq, examples: Examples, cases: Cases, codes: np.ndarray, split: Split,
                     training: TrainingParams, collate: Collate, accelerator: Accelerator,
                     seed: int) -> dict[str, float]:
    """Loss a token, and NDCG and recall of the best ten items unless ``training.early_stopping`` is ``loss``."""
    decode = DecodeParams("beam", beam_size=VALIDATION_K, top_k=VALIDATION_K, filter_history=split.filter_history)
    batches = (collate(examples, rows) for rows in in_order_batches(examples.histories.lengths, decode.batch_size))
    figures = {"loss": mean_loss(network, batches, accelerator)}
    if training.early_stopping != "loss":
        decoder = make_decoder(codes, network.vocabulary.level_sizes, split, decode, accelerator, seed)
        ranked = Ranker(network, decoder, decode.batch_size, collate, accelerator).rank(examples, cases)
        figures |= ranking_figures(ranked.rankings[0].items, cases.targets)
    return figures
