"""A language model that reads words and code tokens and says either: the network, its losses, its prompts.

Shapes: B examples, T tokens, P positions, R code tokens (codes of all levels, and the end where there is one), D width.
Source: Liu et al. 2024 (STORE), section 3.3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline_lib.backbones.causal_lm import Backbone, check_backbone, load_backbone, restore_backbone
from pipeline_lib.backbones.empty_share import no_rows
from pipeline_lib.backbones.item_losses import full_softmax_loss
from pipeline_lib.backbones.text_tokenizer import TextTokenizer
from pipeline_lib.records import Catalogue

IGNORED = -100
STARTS = ("merged", "fresh")


class InstructionLM(nn.Module):
    """A causal LM with a table of code embeddings, and a classifier of codes that is not tied to it.

    Ids below ``first_code`` are the LM's words; id ``first_code + r`` is row r of table and classifier.
    """

    def __init__(self, lm: PreTrainedModel, first_code: int, level_sizes: Sequence[int], has_ends: bool,
                 softmax: str) -> None:
        super().__init__()
        if softmax == "level" and has_ends:
            raise ValueError("params: recommender.instruction_lm.softmax=level needs identifiers of one length, but "
                             "these vary, and their end belongs to no level; set softmax=vocabulary")
        self.lm, self.first_code, self.over_level = lm, first_code, softmax == "level"
        words = lm.get_input_embeddings().weight
        levels = torch.repeat_interleave(torch.tensor([*level_sizes, int(has_ends)]))
        self.register_buffer("level_of_row", levels, persistent=False)  # (R,)
        self.codes = nn.Embedding(len(levels), words.shape[1])
        self.classifier = nn.Linear(lm.get_output_embeddings().in_features, len(levels), bias=False)
        for table in (self.codes, self.classifier):
            nn.init.normal_(table.weight, std=float(words.detach().std()))

    def embed(self, input_ids: Tensor) -> Tensor:
        """``(B, T, D)``: what the model reads for words and codes ``(B, T)``."""
        return embed_tokens(self.lm, self.codes, self.first_code, input_ids)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | int]:
        """Summed cross-entropy of the tokens that are to be said, times the batch's ``weight ()``, and their number.

        ``input_ids`` and ``labels (B, T)`` have the same ids at the same places, labels -100 where nothing is to be
        said; rows are padded on the right, where nothing looks.
        """
        labels = batch["labels"][:, 1:]
        if not len(labels):  # a process may get no row of a batch
            return no_rows(self)
        embedded = self.embed(batch["input_ids"][:, :-1])
        states = self.lm.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        is_code = labels >= self.first_code
        loss = self.code_loss(states[is_code], labels[is_code] - self.first_code)
        is_word = (labels >= 0) & ~is_code
        if is_word.any():
            loss = loss + full_softmax_loss(states[is_word], self.lm.get_output_embeddings().weight, labels[is_word])
        return loss * batch["weight"], (labels != IGNORED).sum()

    def code_loss(self, states: Tensor, rows: Tensor) -> Tensor:
        """Summed cross-entropy of ``rows (P,)`` given ``states (P, D)``: over all R codes, or a code's level."""
        logits = self.classifier(states).float()
        if self.over_level:
            logits = logits.masked_fill(self.level_of_row != self.level_of_row[rows][:, None], -torch.inf)
        return F.cross_entropy(logits, rows, reduction="sum")


def embed_tokens(lm: PreTrainedModel, codes: nn.Embedding | None, first_code: int, input_ids: Tensor) -> Tensor:
    """``(B, T, D)``: what a model reads for ids ``(B, T)``: its words, from ``first_code`` on rows of ``codes``."""
    words = lm.get_input_embeddings()
    if codes is None:
        return words(input_ids)
    is_code = input_ids >= first_code
    read = words(input_ids.masked_fill(is_code, 0))
    return torch.where(is_code[..., None], codes((input_ids - first_code).clamp(min=0)), read)


def item_texts(catalogue: Catalogue | None) -> list[str]:
    """A text an item, its title where it has none; nothing without a catalogue."""
    if catalogue is None:
        return []
    return [text or title for text, title in zip(catalogue.texts, catalogue.titles, strict=True)]


def check_start(start: str, backbone: Backbone, max_tokens: int, where: str) -> None:
    """Refuse sizes of a new language model that cannot be; those of another are known once it is loaded.

    Raises:
        ValueError: naming the first of them.
    """
    if start == "fresh":
        check_backbone(backbone, f"{where}.backbone")
        if backbone.pretrained is None:
            require_positions(max_tokens, backbone.max_positions, where)


def require_positions(max_tokens: int, positions: int, where: str) -> None:
    """Refuse sequences that a language model of so many ``positions`` cannot read."""
    if max_tokens > positions:
        raise ValueError(f"params: {where}.max_tokens is {max_tokens}, but the language model has {positions} positions; "
                         "lower it")


def starting_lm(start: str, backbone: Backbone, embedder: Mapping[str, np.ndarray], embedder_json: Mapping[str, Any],
                texts: Sequence[str], where: str) -> tuple[PreTrainedModel, TextTokenizer]:
    """The language model that training starts from, with its text tokenizer.

    Args:
        start: ``merged``, the model of the embedding source, where that is one; else, and with ``fresh``, ``backbone``.
        embedder, embedder_json: the embedding source's model.
        texts: what a text tokenizer is trained on, where the backbone is built from sizes.
        where: of the options, for messages, e.g. ``recommender.instruction_lm``.
    """
    if start == "merged" and "text_tokenizer" in embedder_json:
        return restore_backbone(embedder, embedder_json)
    if start == "merged" and backbone.pretrained is not None:
        raise ValueError(f"params: {where}.start=merged needs a language model that the embedding source trained; set "
                         "tokenizer.source=dense, or start=fresh")
    return load_backbone(backbone, texts)
