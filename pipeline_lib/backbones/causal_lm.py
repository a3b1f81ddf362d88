"""Decoder-only language models: built from sizes, or loaded; low-rank adapters; saved with their text tokenizer.

Source of adapters: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig, AutoModelForCausalLM, GPT2Config, OPTConfig, PretrainedConfig, PreTrainedModel, Qwen2Config,
)

from pipeline_lib.backbones.text_tokenizer import TextTokenizer, load_text_tokenizer, train_byte_tokenizer
from pipeline_lib.ranges import NonNegativeInt, PositiveFloat, PositiveInt, ShareBelowOne

ATTENTION = "sdpa"
FAMILIES = ("opt", "qwen2", "gpt2")
GPT2_TARGETS = {"q_proj": "c_attn", "k_proj": "c_attn", "v_proj": "c_attn", "out_proj": "attn.c_proj",
                "o_proj": "attn.c_proj"}  # gpt2 keeps queries, keys and values in one matrix


@dataclass(frozen=True)
class Backbone:
    """``pretrained``: a name or folder, whose sizes replace all that follow; null builds one from these sizes.

    ``vocabulary``: entries of the text tokenizer that is then trained; ``dropout``: not used by qwen2, which has none.
    """

    pretrained: str | None = None
    family: Literal[*FAMILIES] = "opt"
    layers: PositiveInt = 2
    heads: PositiveInt = 4
    width: PositiveInt = 128
    feed_forward: PositiveInt = 512
    dropout: ShareBelowOne = 0.0
    vocabulary: PositiveInt = 8000
    max_positions: PositiveInt = 512


@dataclass(frozen=True)
class Lora:
    """Adapters of this ``rank`` beside the layers named in ``targets``; rank 0: no adapters, all weights train."""

    rank: NonNegativeInt = 32
    alpha: PositiveFloat = 64.0
    dropout: ShareBelowOne = 0.1
    targets: tuple[str, ...] = ("q_proj", "v_proj")


def build_causal_lm(backbone: Backbone, vocab_size: int, pad_id: int, end_id: int) -> PreTrainedModel:
    """A model of the given sizes with random weights from the global torch generator.

    Raises:
        ValueError: for an unknown family, and as `check_backbone`.
    """
    check_backbone(backbone)
    config = _sizes(backbone, vocab_size=vocab_size, pad_token_id=pad_id, bos_token_id=end_id, eos_token_id=end_id)
    return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)


def check_backbone(backbone: Backbone, where: str = "backbone") -> None:
    """Refuse sizes that no model can be built of; a pretrained one has sizes of its own.

    Raises:
        ValueError: for heads that do not divide the width.
    """
    if backbone.pretrained is None and backbone.width % backbone.heads:
        raise ValueError(f"params: {where}.width is {backbone.width} but there are {backbone.heads} heads; take a "
                         f"width that {backbone.heads} divides")


def load_causal_lm(name_or_folder: str) -> PreTrainedModel:
    """A pretrained model in float32, from safetensors only and without remote code.

    Raises:
        ValueError: if there is none, it cannot be downloaded, its word vectors are not as wide as its states, or the
            logits of its words have a bias.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(name_or_folder, use_safetensors=True, trust_remote_code=False,
                                                     dtype=torch.float32, attn_implementation=ATTENTION)
    except (OSError, ValueError) as error:
        raise ValueError(f"no causal LM with safetensors weights at {name_or_folder} ({str(error).splitlines()[0]}); "
                         "give a local folder as backbone.pretrained, or set it to null to build one from the "
                         "sizes") from error
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"{name_or_folder} adds a bias to the logits of words, which losses here leave out; take a model "
                         "without, such as facebook/opt-125m")
    words, states = model.get_input_embeddings().embedding_dim, model.config.hidden_size
    if words != states:  # OPT-350M: a state cannot be fed back as an input
        raise ValueError(f"{name_or_folder} has word vectors of {words} dimensions but states of {states}; take a "
                         "model where both are equal, such as facebook/opt-125m (OPT-125M) with 768")
    return model


def load_backbone(backbone: Backbone, texts: Sequence[str]) -> tuple[PreTrainedModel, TextTokenizer]:
    """A pretrained model and its tokenizer, or a new model and a byte-level BPE that is trained on ``texts``."""
    if backbone.pretrained is None:
        tokenizer = train_byte_tokenizer(texts, backbone.vocabulary)
        ids = (tokenizer.id_of(tokenizer.pad), tokenizer.id_of(tokenizer.end))
        return build_causal_lm(backbone, tokenizer.size, *ids), tokenizer
    model, tokenizer = load_causal_lm(backbone.pretrained), load_text_tokenizer(backbone.pretrained)
    if tokenizer.size > model.config.vocab_size:
        model.resize_token_embeddings(tokenizer.size)
    return model, tokenizer


def add_lora(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """Put adapters beside the model's layers, in place, and freeze all else; rank 0 leaves all weights trainable.

    Adapters start as zero: the outputs do not change. Their other half comes from the global torch generator.

    Raises:
        ValueError: if no layer has one of the names in ``lora.targets``.
    """
    if lora.rank == 0:
        return model.requires_grad_(True)
    from peft import LoraConfig, inject_adapter_in_model  # seconds, which models without adapters do not need

    targets = lora.targets
    if model.config.model_type == "gpt2":
        targets = tuple(dict.fromkeys(GPT2_TARGETS.get(name, name) for name in targets))
    names = [f".{name}" for name, _ in model.named_modules()]
    missing = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if missing:
        layers = sorted({name.rsplit(".", 1)[-1] for name, layer in model.named_modules()
                         if isinstance(layer, nn.Linear)})
        raise ValueError(f"params: lora.targets names {missing[0]}, which a {model.config.model_type} does not have; "
                         f"its layers: {', '.join(layers)}")
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(targets),
                        fan_in_fan_out=model.config.model_type == "gpt2")
    return inject_adapter_in_model(config, model)


def merge_lora(module: nn.Module) -> nn.Module:
    """Add the adapters to the weights that they stand beside, in place, and let all train; outputs do not change."""
    adapted = [part for part in module.modules() if "peft_config" in part.__dict__]
    if adapted:
        from peft.tuners.lora import LoraLayer

        for name, layer in list(module.named_modules()):
            if isinstance(layer, LoraLayer):
                layer.merge()
                module.set_submodule(name, layer.get_base_layer())
        for part in adapted:
            del part.peft_config  # so that new adapters can follow
    return module.requires_grad_(True)


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Name -> value on the CPU, of the weights that train; tied ones once."""
    return {name: weight.detach().cpu() for name, weight in module.named_parameters() if weight.requires_grad}


def save_backbone(model: PreTrainedModel, tokenizer: TextTokenizer, backbone: Backbone,
                  lora: Lora) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `restore_backbone` reads: adapters alone where they stand beside a pretrained model, else all weights."""
    kept = trainable_state(model) if _adapters_alone(asdict(backbone), asdict(lora)) else {
        name: weight.detach().cpu() for name, weight in model.named_parameters()}
    return ({f"backbone.{name}": weight.numpy() for name, weight in kept.items()},
            {"backbone": asdict(backbone), "lora": asdict(lora), "config": model.config.to_dict(),
             "text_tokenizer": tokenizer.to_json()})


def restore_backbone(tensors: Mapping[str, np.ndarray],
                     model_json: Mapping[str, Any]) -> tuple[PreTrainedModel, TextTokenizer]:
    """The model that `save_backbone` saved, its adapters merged, in evaluation mode, with its tokenizer.

    Nothing is downloaded unless adapters of a pretrained model were saved.

    Raises:
        ValueError: if the saved weights do not fit, or the pretrained model cannot be had.
    """
    backbone = model_json["backbone"]
    lora = Lora(**{**model_json["lora"], "targets": tuple(model_json["lora"]["targets"])})
    if _adapters_alone(backbone, model_json["lora"]):
        model = load_causal_lm(backbone["pretrained"])
        if model_json["config"]["vocab_size"] > model.config.vocab_size:
            model.resize_token_embeddings(model_json["config"]["vocab_size"])
    else:
        config = dict(model_json["config"])
        config = AutoConfig.for_model(config.pop("model_type"), **config)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
    model = add_lora(model, lora)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items():
            if name.startswith("backbone."):
                _weight(weights, name.removeprefix("backbone.")).copy_(torch.from_numpy(np.array(value)))
    return merge_lora(model).eval(), TextTokenizer.from_json(model_json["text_tokenizer"])


def _sizes(backbone: Backbone, **tokens: int) -> PretrainedConfig:
    if backbone.family == "opt":
        return OPTConfig(**tokens, hidden_size=backbone.width, word_embed_proj_dim=backbone.width,
                         num_hidden_layers=backbone.layers, num_attention_heads=backbone.heads,
                         ffn_dim=backbone.feed_forward, max_position_embeddings=backbone.max_positions,
                         dropout=backbone.dropout, attention_dropout=0.0, layerdrop=0.0)
    if backbone.family == "qwen2":
        return Qwen2Config(**tokens, hidden_size=backbone.width, num_hidden_layers=backbone.layers,
                           num_attention_heads=backbone.heads, num_key_value_heads=backbone.heads,
                           intermediate_size=backbone.feed_forward, max_position_embeddings=backbone.max_positions,
                           attention_dropout=0.0, tie_word_embeddings=True)
    if backbone.family == "gpt2":
        return GPT2Config(**tokens, n_embd=backbone.width, n_layer=backbone.layers, n_head=backbone.heads,
                          n_inner=backbone.feed_forward, n_positions=backbone.max_positions,
                          resid_pdrop=backbone.dropout, embd_pdrop=backbone.dropout, attn_pdrop=0.0)
    raise ValueError(f"params: backbone.family is {backbone.family}; known: {', '.join(FAMILIES)}")


def _adapters_alone(backbone: Mapping[str, Any], lora: Mapping[str, Any]) -> bool:
    return backbone["pretrained"] is not None and lora["rank"] > 0


def _weight(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise ValueError(f"the saved backbone has a weight {name}, which its model has not; re-run embed")
    return weights[name]
