"""Backbones that read sets: order within an item says nothing, nothing leaks, all answers come at once.

Of the method's checklist: 1 to 6. What is asked of attention itself is read off its probabilities.
"""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline_lib.backbones.set_attention import history_positions
from pipeline_lib.backbones.set_lm import SetLM
from pipeline_lib.backbones.set_t5 import SetT5, relative_bias
from pipeline_lib.backbones.t5 import build_t5

WIDTH, SIZE, ITEMS, TEXT = 16, 3, 4, 2
FORMS = ["t5 causal", "t5 bidirectional", "qwen2", "gpt2", "opt"]
LMS = {"qwen2": {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 0},
       "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64},
       "opt": {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 32, "num_hidden_layers": 2,
               "num_attention_heads": 2, "max_position_embeddings": 64}}


def build(form, *, sparse=True, shared=True, text=TEXT, attention="sdpa"):
    torch.manual_seed(0)
    words = torch.randn(text, WIDTH)
    if form.startswith("t5"):
        t5 = build_t5(4, WIDTH, 2, 2, 8, 32, 0.0)
        for name, weight in t5.named_parameters():
            if "relative_attention_bias" in name:
                torch.nn.init.normal_(weight)  # as large as after training, so that a wrong position shows
        t5.set_attn_implementation(attention)
        return SetT5(t5, words, sparse=sparse, causal=form == "t5 causal", shared=shared).eval()
    config = AutoConfig.for_model(form, vocab_size=4, pad_token_id=0, attn_implementation=attention, **LMS[form])
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)  # likewise
    body = getattr(model, model.base_model_prefix)
    return SetLM(getattr(body, "decoder", body), words, sparse=sparse, shared=shared, trains_text=True).eval()


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, ITEMS, SIZE, WIDTH, generator=generator)
    tokens[1, 2:] = 0
    return {"tokens": tokens, "lengths": torch.tensor([ITEMS, 2]),
            "queries": torch.randn(SIZE, WIDTH, generator=generator), "seen": torch.tensor([[ITEMS], [2]])}


def changed(case, **parts):
    return {**case, **parts}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [[0, 2, 1], [1, 0, 2]])  # semantic ones; the collaborative one too
def test_the_order_of_an_item_s_tokens_says_nothing(form, order, case):
    model, tokens = build(form), case["tokens"].clone()
    tokens[0, 1] = tokens[0, 1, order]
    with torch.inference_mode():
        torch.testing.assert_close(model(**case), model(**changed(case, tokens=tokens)), rtol=1e-5, atol=1e-5)


def history_states(model, case):
    """Last states of the tokens of items, ``(B, ITEMS, SIZE, WIDTH)``."""
    found = []
    if isinstance(model, SetT5):
        found.append(model.encode(case["tokens"], case["lengths"]))
    else:
        hook = model.body.register_forward_hook(lambda *call: found.append(call[-1].last_hidden_state))
        model(**case)
        hook.remove()
    return found[0][:, TEXT : TEXT + ITEMS * SIZE].unflatten(1, (ITEMS, SIZE))


@pytest.mark.parametrize("form", FORMS)
def test_only_the_item_s_own_states_are_permuted(form, case):
    model, tokens, order = build(form), case["tokens"].clone(), [2, 0, 1]
    tokens[0, 1] = tokens[0, 1, order]
    with torch.inference_mode():
        before, after = (history_states(model, part) for part in (case, changed(case, tokens=tokens)))
    assert (before - after)[0, 1].abs().max() > 1e-3
    before = before.clone()
    before[0, 1] = before[0, 1, order]
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_items_does_matter(form, case):
    model, tokens = build(form), case["tokens"].clone()
    tokens[0, [1, 2]] = tokens[0, [2, 1]]
    with torch.inference_mode():
        difference = (model(**case) - model(**changed(case, tokens=tokens))).abs()
    assert difference[0].max() > 1e-3
    assert difference[1].max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_without_the_sparse_mask_tokens_of_an_item_and_queries_see_each_other(form, case):
    model, tokens, queries = build(form, sparse=False), case["tokens"].clone(), case["queries"].clone()
    queries[0] = 0
    with torch.inference_mode():
        answers, others = model(**case), model(**changed(case, queries=queries))
        assert (answers - others)[..., 1:, :].abs().max() > 1e-3
        if form.startswith("t5"):
            tokens[0, 1, 0] = 0
            states, changed_states = (model.encode(part, case["lengths"])[0, TEXT + SIZE + 1]
                                      for part in (case["tokens"], tokens))
            assert (states - changed_states).abs().max() > 1e-3


def attention_probabilities(model, case):
    """What each self-attention layer weighs its keys by, ``(B, H, queries, keys)``: (of the history, of queries)."""
    found = {}

    def keep(name):
        return lambda module, arguments, output: found.setdefault(name, []).append(output[-1])

    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in ("SelfAttention", "self_attn", "attn"):
            module.register_forward_hook(keep("queries" if name.startswith("decoder.") else "history"))
    with torch.inference_mode():
        model(**case)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_attention_within_an_item_between_queries_and_to_later_items_is_zero(form, case):
    found = attention_probabilities(build(form, attention="eager"), case)
    assert len(found["history"]) == 2
    for weights in found["history"]:
        for item in range(ITEMS):
            first, behind = TEXT + item * SIZE, TEXT + ITEMS * SIZE
            own = weights[0, :, first : first + SIZE, first : first + SIZE]
            assert (own - own.diagonal(dim1=1, dim2=2).diag_embed()).abs().max() == 0
            assert (own.diagonal(dim1=1, dim2=2) > 0).all()
            later = weights[0, :, first : first + SIZE, first + SIZE : behind]
            assert form == "t5 bidirectional" or later.numel() == 0 or later.max() == 0
    queries = found.get("queries") or [weights[:, :, -SIZE:, -SIZE:] for weights in found["history"]]
    for weights in queries:
        assert (weights - weights.diagonal(dim1=2, dim2=3).diag_embed()).abs().max() == 0


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_attention_backend_gives_the_same(form, sparse, case):
    fused, eager = (build(form, sparse=sparse, attention=name) for name in ("sdpa", "eager"))
    with torch.inference_mode():
        torch.testing.assert_close(fused(**case), eager(**case), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_padding_shifts_nothing(form, case):
    model = build(form)
    alone = {"tokens": case["tokens"][1:, :2], "lengths": case["lengths"][1:], "queries": case["queries"],
             "seen": case["seen"][1:]}
    with torch.inference_mode():
        torch.testing.assert_close(model(**case)[1:], model(**alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_query_alone_gets_the_answer_that_it_gets_beside_others(form, case):
    model = build(form)
    with torch.inference_mode():
        together = model(**case)
        for dimension in range(SIZE):  # all queries the same: each answer is that of its one query
            alone = model(**changed(case, queries=case["queries"][dimension].expand(SIZE, -1)))
            torch.testing.assert_close(alone[:, :, 0], together[:, :, dimension], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("form", ["t5 causal", "qwen2", "gpt2", "opt"])
def test_all_positions_of_a_row_in_one_pass_equal_one_sample_a_position(form, shared, sparse, case):
    model = build(form, shared=shared, sparse=sparse)
    with torch.inference_mode():
        packed = model(**changed(case, seen=torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])))
        for row, length in ((0, ITEMS), (1, 2)):
            for seen in range(1, length + 1):
                single = model(case["tokens"][row : row + 1, :seen], torch.tensor([seen]), case["queries"],
                               torch.tensor([[seen]]))
                torch.testing.assert_close(packed[row, seen - 1], single[0, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_without_any_item_is_answered_the_same_in_every_batch(form, case):
    model = build(form, text=0)
    empty = {"tokens": torch.zeros(1, 1, SIZE, WIDTH), "lengths": torch.tensor([0]), "queries": case["queries"],
             "seen": torch.tensor([[0]])}
    beside = changed(case, tokens=torch.cat([case["tokens"], torch.zeros(1, ITEMS, SIZE, WIDTH)]),
                     lengths=torch.tensor([ITEMS, 2, 0]), seen=torch.tensor([[ITEMS], [2], [0]]))
    with torch.inference_mode():
        alone = model(**empty)[0]
        assert alone.isfinite().all()
        torch.testing.assert_close(model(**beside)[2], alone, rtol=1e-5, atol=1e-5)


def test_relative_bias_is_t5_s_own_where_every_token_stands_alone():
    model = build("t5 causal")
    positions = history_positions(6, 1, 0)
    expected = model.encoder.block[0].layer[0].SelfAttention.compute_bias(6, 6)
    assert torch.equal(relative_bias(model.encoder, positions), expected)


def test_a_plain_bidirectional_encoder_is_t5_s_own():
    torch.manual_seed(0)
    t5 = build_t5(8, WIDTH, 2, 2, 8, 32, 0.0).eval()
    tokens = torch.randn(2, 5, 1, WIDTH)
    with torch.inference_mode():
        expected = t5.encoder(inputs_embeds=tokens[:, :, 0]).last_hidden_state
        model = SetT5(t5, torch.empty(0, WIDTH), sparse=False, causal=False, shared=True).eval()
        torch.testing.assert_close(model.encode(tokens, torch.tensor([5, 5])), expected)


@pytest.mark.parametrize("form", LMS)
def test_an_lm_reads_items_of_one_token_as_it_reads_any_sequence(form):
    model, tokens, query = build(form), torch.randn(2, 5, 1, WIDTH), torch.randn(1, WIDTH)
    with torch.inference_mode():
        sequence = torch.cat([model.text.expand(2, -1, -1), tokens[:, :, 0], query.expand(2, 1, -1)], dim=1)
        expected = model.body(inputs_embeds=sequence, use_cache=False).last_hidden_state[:, -1]
        answers = model(tokens, torch.tensor([5, 5]), query, torch.tensor([[5], [5]]))
    torch.testing.assert_close(answers[:, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_position_that_the_lm_does_not_know_is_refused(case):
    model = build("gpt2", text=62)
    with pytest.raises(ValueError, match="position 66, but the LM knows 64; lower sequences.max_items"):
        model(**case)
