"""Backbones that answer queries about sets of tokens: new or pretrained, and put together again from what was saved."""

import copy
import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from pipeline_lib.backbones.causal_lm import Backbone, Lora, add_lora, build_causal_lm, load_causal_lm
from pipeline_lib.backbones.set_lm import SetLM
from pipeline_lib.backbones.set_t5 import SetT5
from pipeline_lib.backbones.t5 import ATTENTION, build_t5, load_t5
from pipeline_lib.backbones.text_tokenizer import load_text_tokenizer

PROMPT = "What would the user be likely to purchase next after buying items"
NO_WORDS = {"vocab_size": 1, "pad_token_id": 0}  # token sets come as vectors


class BackboneOptions(Protocol):
    """What of a recommender's ``Config`` says which backbone it has."""

    backbone: str
    pretrained: str | None
    family: str
    layers: int
    heads: int
    head_size: int
    width: int
    feed_forward: int
    dropout: float
    max_positions: int
    prompt: bool
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    lora_targets: tuple[str, ...]
    history: str
    attention: str
    positions: str


def new_backbone(options: BackboneOptions) -> tuple[nn.Module, dict[str, Any]]:
    """A backbone to be trained, and the JSON that `saved_backbone` makes one of its form from."""
    if options.pretrained is None:
        model, text = (_build_t5 if options.backbone == "t5" else _build_lm)(options), torch.empty(0, options.width)
    else:
        model = load_t5(options.pretrained) if options.backbone == "t5" else load_causal_lm(options.pretrained)
        words = load_text_tokenizer(options.pretrained).encode(PROMPT) if options.prompt else []
        text = model.get_input_embeddings().weight.data[torch.tensor(words, dtype=torch.int64)].clone()
    saved = {**json.loads(model.config.to_json_string()), **NO_WORDS}
    return _assembled(model, text, options), {"config": saved, "text": len(text)}


def saved_backbone(options: BackboneOptions, saved: Mapping[str, Any]) -> nn.Module:
    """A backbone whose weights are to be loaded, from JSON of `new_backbone`."""
    sizes = copy.deepcopy(saved["config"])  # transformers changes what it reads
    if options.backbone == "t5":
        model = T5ForConditionalGeneration(T5Config.from_dict(sizes, attn_implementation=ATTENTION))
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes), attn_implementation=ATTENTION)
    return _assembled(model, torch.empty(saved["text"], model.config.hidden_size), options)


def _build_t5(options: BackboneOptions) -> T5ForConditionalGeneration:
    return build_t5(1, options.width, options.layers, options.heads, options.head_size, options.feed_forward,
                    options.dropout)


def _build_lm(options: BackboneOptions) -> PreTrainedModel:
    backbone = Backbone(None, options.family, options.layers, options.heads, options.width, options.feed_forward,
                        options.dropout, vocabulary=1, max_positions=options.max_positions)
    return build_causal_lm(backbone, 1, 0, 0)


def _assembled(model: PreTrainedModel, text: Tensor, options: BackboneOptions) -> nn.Module:
    sparse, shared = options.attention == "sparse", options.positions == "shared"
    if options.backbone == "t5":
        return SetT5(model, text, sparse=sparse, causal=options.history == "causal", shared=shared)
    lora = Lora(options.lora_rank, options.lora_alpha, options.lora_dropout, options.lora_targets)
    add_lora(model, lora)  # in place
    return SetLM(_body(model), text, sparse=sparse, shared=shared, trains_text=not lora.rank)


def _body(model: PreTrainedModel) -> PreTrainedModel:
    """What stands below the output layer and takes 4-D masks."""
    body = getattr(model, model.base_model_prefix)
    return getattr(body, "decoder", body)
