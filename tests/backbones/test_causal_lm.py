"""Of STORE's checklist: 4 (what trains under adapters, and what does not) and pitfall P3 (widths)."""

import json

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from pipeline_lib.backbones.causal_lm import (
    FAMILIES, Backbone, Lora, add_lora, build_causal_lm, load_backbone, load_causal_lm, merge_lora, restore_backbone,
    save_backbone, trainable_state,
)
from pipeline_lib.backbones.text_tokenizer import train_byte_tokenizer

TEXTS = ["red nail polish", "blue camping tent", "red tent pegs"]
TINY = Backbone(width=16, heads=2, feed_forward=24, vocabulary=300, max_positions=32)
ADAPTERS = Lora(rank=2, alpha=4.0, dropout=0.0)


def tiny(family="opt"):
    torch.manual_seed(0)
    sizes = Backbone(family=family, width=16, heads=2, feed_forward=24, max_positions=32)
    return build_causal_lm(sizes, 40, 0, 1).eval()


def logits(model):
    ids = torch.randint(2, 40, (3, 9), generator=torch.Generator().manual_seed(1))
    return model(ids).logits


def with_trained_adapters(model):
    for name, weight in add_lora(model, ADAPTERS).named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder such as a hub's: weights in safetensors and a tokenizer without a padding token."""
    folder = tmp_path_factory.mktemp("opt")
    torch.manual_seed(3)
    model, tokenizer = load_backbone(TINY, TEXTS)
    model.half().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token="</s>").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_the_sizes_asked_for_and_sees_no_later_token(family):
    model = tiny(family)
    assert model.config.model_type == family and model.config.num_hidden_layers == 2
    assert model.get_input_embeddings().weight.shape == (40, 16)
    assert (model.config.pad_token_id, model.config.eos_token_id) == (0, 1)
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 9]])
    found = model(ids).logits
    torch.testing.assert_close(found[0, :2], found[1, :2])
    assert not torch.allclose(found[0, 2], found[1, 2])


def test_equal_seeds_give_equal_weights():
    one, other = (tiny().state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_start_without_effect_and_are_all_that_trains(family):
    model = tiny(family)
    before = logits(model)
    assert add_lora(model, ADAPTERS) is model
    assert torch.equal(logits(model), before)
    logits(model).square().sum().backward()
    assert {name for name in trainable_state(model) if "lora" not in name} == set()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == ("lora" in name), name
        assert "lora_B" not in name or weight.grad.norm() > 0  # the other half has none while this one is zero


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapters_leave_the_outputs_and_nothing_else(family):
    model = tiny(family)
    plain, names = logits(model), list(model.state_dict())
    adapted = logits(with_trained_adapters(model))
    assert not torch.allclose(plain, adapted, atol=1e-3)
    merge_lora(model)
    torch.testing.assert_close(logits(model), adapted)
    assert list(model.state_dict()) == names and all(weight.requires_grad for weight in model.parameters())
    before = logits(model)
    assert torch.equal(logits(add_lora(model, ADAPTERS)), before)  # new adapters on the merged weights


def test_rank_0_trains_everything():
    model = tiny()
    assert add_lora(model.requires_grad_(False), Lora(rank=0)) is model
    assert len(trainable_state(model)) == len(list(model.parameters()))


def test_layers_that_there_are_not_are_named():
    with pytest.raises(ValueError, match=r"names query, which a opt does not have; its layers: .*q_proj"):
        add_lora(tiny(), Lora(targets=("query",)))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_model_built_from_sizes_is_restored_from_its_tensors_alone(rank):
    model, tokenizer = load_backbone(TINY, TEXTS)
    lora = Lora(rank=rank, dropout=0.0)
    model = with_trained_adapters(model) if rank else add_lora(model, lora)
    tensors, tree = save_backbone(model.eval(), tokenizer, TINY, lora if rank == 0 else ADAPTERS)
    restored, again = restore_backbone(tensors, json.loads(json.dumps(tree)))
    torch.testing.assert_close(logits(restored), logits(model))
    assert not restored.training and not any("lora" in name for name in restored.state_dict())
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_adapters_of_a_pretrained_model_are_saved_without_it(pretrained):
    backbone = Backbone(pretrained=pretrained)
    model, tokenizer = load_backbone(backbone, [])
    with_trained_adapters(model.eval())
    tensors, tree = save_backbone(model, tokenizer, backbone, ADAPTERS)
    assert all("lora" in name for name in tensors) and len(tensors) == 8
    restored, _ = restore_backbone(tensors, tree)
    torch.testing.assert_close(logits(restored), logits(model))


def test_a_pretrained_folder_brings_float32_weights_and_its_tokenizer(pretrained):
    model, tokenizer = load_backbone(Backbone(pretrained=pretrained, width=999), [])
    assert model.dtype == torch.float32 and model.config.hidden_size == 16
    assert tokenizer.pad == tokenizer.end == "</s>"  # it named no padding token
    assert tokenizer.encode(TEXTS[1]) == train_byte_tokenizer(TEXTS, 300).encode(TEXTS[1])


def test_a_model_whose_head_has_a_bias_is_refused(tmp_path):
    sizes = PhiConfig(vocab_size=20, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                      max_position_embeddings=8)
    PhiForCausalLM(sizes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adds a bias to the logits of words, .* take a model without"):
        load_causal_lm(str(tmp_path))


def test_a_model_whose_states_cannot_be_fed_back_is_refused(tmp_path):
    sizes = OPTConfig(vocab_size=20, hidden_size=16, word_embed_proj_dim=8, ffn_dim=8, num_hidden_layers=1,
                      num_attention_heads=2, max_position_embeddings=8)
    OPTForCausalLM(sizes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="word vectors of 8 dimensions but states of 16; .*OPT-125M"):
        load_causal_lm(str(tmp_path))


def test_weights_that_are_not_there_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no causal LM with safetensors weights at .*; give a local folder"):
        load_causal_lm(str(tmp_path))


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="backbone.family is llama; known: opt, qwen2, gpt2"):
        build_causal_lm(Backbone(family="llama"), 10, 0, 1)
    with pytest.raises(ValueError, match="width is 10 but there are 4 heads"):
        build_causal_lm(Backbone(width=10), 10, 0, 1)


def test_a_saved_weight_that_does_not_fit_is_named():
    model, tokenizer = load_backbone(TINY, TEXTS)
    tensors, tree = save_backbone(model, tokenizer, TINY, Lora(rank=0))
    tensors["backbone.model.more"] = tensors["backbone.model.decoder.embed_tokens.weight"]
    with pytest.raises(ValueError, match="a weight model.more, which its model has not; re-run embed"):
        restore_backbone(tensors, tree)
