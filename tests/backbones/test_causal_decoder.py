import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM

from pipeline_lib.backbones import causal_decoder
from pipeline_lib.backbones.causal_decoder import CausalDecoder
from pipeline_lib.backbones.causal_lm import Lora, add_lora
from pipeline_lib.decoding.beam import beam_search
from pipeline_lib.decoding.trie import build_trie

SIZES, OFFSETS, END, VOCABULARY = (6, 5, 4), (20, 26, 31), 35, 40
NAMES = ("opt", "opt_post_norm", "qwen2", "gpt2")


def make_model(name):
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False}
    if name == "qwen2":  # two query heads share a key head
        model = Qwen2ForCausalLM(Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=32, max_position_embeddings=64, **ids))
    elif name == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64,
                                           **ids))
    else:
        model = OPTForCausalLM(OPTConfig(
            vocab_size=VOCABULARY, hidden_size=16, word_embed_proj_dim=16 if name == "opt" else 8, num_hidden_layers=2,
            num_attention_heads=2, ffn_dim=32, max_position_embeddings=64, do_layer_norm_before=name == "opt", **ids))
    with torch.no_grad():
        for weight in model.parameters():  # small weights give nearly equal probabilities, which hide mistakes
            weight.mul_(8.0 if weight.ndim > 1 else 1.0)
    return model.eval()


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return make_model(request.param)


@pytest.fixture(scope="module")
def prompts():
    """Five prompts of words and codes, of different lengths, padded on the right."""
    ids = torch.randint(0, VOCABULARY, (5, 7), generator=torch.Generator().manual_seed(1))
    return ids, (torch.arange(7) < torch.tensor([7, 3, 5, 1, 2])[:, None]).long()


@pytest.fixture(scope="module")
def codes():
    return np.unique(np.random.default_rng(0).integers(0, SIZES, (40, 3)), axis=0)


def search(model, prompts, trie, beam_size, level_sizes=SIZES, **options):
    ids, mask = prompts
    words = model.get_input_embeddings()
    decoder = CausalDecoder(model, words.weight, model.get_output_embeddings().weight)
    offsets = (*OFFSETS, END)[: len(level_sizes)]
    step = decoder.next_log_probs(decoder.encode(words(ids), mask), offsets, level_sizes, **options)
    return beam_search(step, trie, len(ids), beam_size)


def forced_log_probs(model, prompts, row, tokens):
    """``(n, L, V)``: the model's own forward pass over one unpadded prompt and each of ``tokens (n, L)``."""
    prompt = prompts[0][row, : prompts[1][row].sum()]
    whole = torch.cat([prompt.expand(len(tokens), -1), tokens], dim=1)
    with torch.inference_mode():
        return model(input_ids=whole).logits[:, len(prompt) - 1 : -1].log_softmax(-1)


def exact_scores(model, prompts, codes):
    tokens = torch.from_numpy(codes) + torch.tensor(OFFSETS)
    rows = [forced_log_probs(model, prompts, row, tokens).gather(-1, tokens[..., None]).sum((1, 2)) for row in range(5)]
    return torch.stack(rows)  # (B, items); leaves are items, as codes are sorted and unique


@pytest.mark.parametrize("cpu_tokens", [7, 14, 1000])  # one user a part, two, all
def test_every_item_gets_the_log_probability_of_the_plain_forward_pass(model, prompts, codes, cpu_tokens, monkeypatch):
    monkeypatch.setattr(causal_decoder, "CPU_TOKENS", cpu_tokens)
    beams = search(model, prompts, build_trie(codes, SIZES), len(codes))
    scores = exact_scores(model, prompts, codes)
    torch.testing.assert_close(beams.scores, scores.sort(dim=1, descending=True).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beams.scores, scores.gather(1, beams.leaves), rtol=1e-4, atol=1e-4)
    assert (scores.std(dim=1) > 0.1).all()  # so that the comparison can tell


def test_narrow_beams_follow_their_own_parents(model, prompts, codes):
    beams = search(model, prompts, build_trie(codes, SIZES), 4)
    expected = exact_scores(model, prompts, codes).gather(1, beams.leaves)
    torch.testing.assert_close(beams.scores, expected, rtol=1e-4, atol=1e-4)


def test_ranked_items_and_scores_equal_generate_with_a_prefix_function(model, codes):
    prompt = torch.randint(0, VOCABULARY, (5, 7), generator=torch.Generator().manual_seed(2))
    tokens, following = codes + np.array(OFFSETS), {}
    for row in tokens.tolist():
        for level in range(3):
            following.setdefault(tuple(row[:level]), set()).add(row[level])
    with torch.inference_mode():
        output = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), num_beams=6, num_return_sequences=6,
            max_new_tokens=3, do_sample=False, length_penalty=0.0, return_dict_in_generate=True,
            output_scores=True, pad_token_id=0,
            prefix_allowed_tokens_fn=lambda _, said: list(following[tuple(said[7:].tolist())]))
    trie = build_trie(codes, SIZES)
    beams = search(model, (prompt, torch.ones_like(prompt)), trie, 6)
    theirs = trie.find((output.sequences[:, 7:] - torch.tensor(OFFSETS)).unflatten(0, (5, 6)))
    assert beams.leaves.tolist() == theirs.tolist()
    torch.testing.assert_close(beams.scores, output.sequences_scores.view(5, 6), rtol=1e-4, atol=1e-4)


def test_identifiers_of_several_lengths_end_with_the_end_token(model, prompts):
    codes = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 2], [3, 4, 1]])
    sizes, closed = (*SIZES, 0), np.c_[codes, [-1] * 4]  # a level more, so that full identifiers end too
    trie = build_trie(closed, sizes)
    beams = search(model, prompts, trie, 4, sizes, end_token=END)
    found = beams.scores.gather(1, beams.leaves.argsort(1))
    leaves = trie.find(torch.from_numpy(closed))
    for item, row in enumerate(codes):
        said = [*(int(code) + offset for code, offset in zip(row, OFFSETS, strict=True) if code >= 0), END]
        for user in range(5):
            forced = forced_log_probs(model, prompts, user, torch.tensor([said]))[0]
            expected = sum(forced[place, token] for place, token in enumerate(said))
            torch.testing.assert_close(found[user, leaves[item]], expected, rtol=1e-4, atol=1e-4)


def test_over_the_level_each_level_is_a_distribution_of_its_own(model, prompts):
    every = np.stack(np.meshgrid(*map(range, SIZES), indexing="ij"), -1).reshape(-1, 3)
    beams = search(model, prompts, build_trie(every, SIZES), len(every), over_level=True)
    torch.testing.assert_close(beams.scores.exp().sum(1), torch.ones(5))


def test_results_depend_neither_on_padding_nor_on_who_is_in_the_batch(model, prompts, codes):
    ids, mask = prompts
    trie = build_trie(codes, SIZES)
    longer = torch.nn.functional.pad(ids, (0, 5), value=9), torch.nn.functional.pad(mask, (0, 5))
    together = search(model, longer, trie, 6)
    for row in range(5):
        length = int(mask[row].sum())
        alone = search(model, (ids[row : row + 1, :length], mask[row : row + 1, :length]), trie, 6)
        assert alone.leaves.tolist() == together.leaves[row : row + 1].tolist()
        torch.testing.assert_close(alone.scores, together.scores[row : row + 1], rtol=1e-4, atol=1e-5)


def test_one_reading_serves_several_searches(model, prompts, codes):
    words = model.get_input_embeddings()
    decoder = CausalDecoder(model, words.weight, model.get_output_embeddings().weight)
    contexts, trie = decoder.encode(words(prompts[0]), prompts[1]), build_trie(codes, SIZES)
    one, two = (beam_search(decoder.next_log_probs(contexts, OFFSETS, SIZES), trie, 5, 6) for _ in range(2))
    assert torch.equal(one.scores, two.scores) and torch.equal(one.leaves, two.leaves)


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_adapters_take_part(name, prompts, codes):
    model, trie = make_model(name), build_trie(codes, SIZES)
    plain = search(model, prompts, trie, len(codes))
    add_lora(model, Lora(rank=2, dropout=0.0))
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "lora_B" in weight_name:
                weight.normal_()
    beams = search(model.eval(), prompts, trie, len(codes))
    assert not torch.allclose(beams.scores, plain.scores, atol=1e-2)
    expected = exact_scores(model, prompts, codes).gather(1, beams.leaves)
    torch.testing.assert_close(beams.scores, expected, rtol=1e-4, atol=1e-4)


def test_what_no_item_has_is_never_found_however_likely_and_a_certain_item_comes_first(prompts):
    model = make_model("opt")
    with torch.no_grad():  # a state is all ones, so that the classifier alone says what is likely
        model.model.decoder.final_layer_norm.weight.zero_()
        model.model.decoder.final_layer_norm.bias.fill_(1.0)
    codes = np.array([[0, 0, 0], [1, 2, 3], [5, 4, 3]])
    logits = torch.zeros(VOCABULARY)
    logits[OFFSETS[0] + 3] = logits[OFFSETS[1] + 3] = 90.0  # no item begins with 3, or has it behind any code
    logits[codes[1] + np.array(OFFSETS)] = 40.0
    words = model.get_input_embeddings()
    decoder = CausalDecoder(model, words.weight, logits[:, None].expand(-1, 16) / 16)
    step = decoder.next_log_probs(decoder.encode(words(prompts[0]), prompts[1]), OFFSETS, SIZES)
    beams = beam_search(step, build_trie(codes, SIZES), 5, beam_size=3)
    assert beams.leaves[:, 0].tolist() == [1] * 5 and beams.invalid_share() == 0
    assert all(sorted(row) == [0, 1, 2] for row in beams.leaves.tolist())
    expected = 3 * (40.0 - logits.logsumexp(0))  # normalised over all codes, legal or not
    torch.testing.assert_close(beams.scores[:, 0], expected.expand(5), rtol=1e-4, atol=1e-3)


def test_under_bfloat16_autocast_scores_stay_near(prompts, codes):
    model, trie, scores = make_model("opt"), build_trie(codes, SIZES), []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            beams = search(model, prompts, trie, len(codes))
        scores.append(beams.scores.gather(1, beams.leaves.argsort(1)))
    assert scores[1].dtype == torch.float32 and not torch.equal(*scores)
    torch.testing.assert_close(*scores, rtol=0.1, atol=0.5)


def test_a_model_that_trains_is_refused(prompts):
    model = make_model("opt").train()
    with pytest.raises(ValueError, match="training mode"):
        search(model, prompts, build_trie(np.zeros((1, 3), dtype=int), SIZES), 1)


@pytest.mark.parametrize("mask", [[[1, 1], [0, 1]], [[1, 1], [0, 0]]])
def test_left_padding_and_empty_prompts_are_refused(mask):
    model = make_model("opt")
    decoder = CausalDecoder(model, model.lm_head.weight, model.lm_head.weight)
    with pytest.raises(ValueError, match="prompt 1 of a batch is empty or padded on the left"):
        decoder.encode(torch.zeros(2, 2, 16), torch.tensor(mask))


def test_models_whose_attention_would_read_the_mask_otherwise_are_refused():
    model = make_model("qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match="sliding windows"):
        CausalDecoder(model, model.lm_head.weight, model.lm_head.weight)
    model = make_model("opt")
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="attends by eager"):
        CausalDecoder(model, model.lm_head.weight, model.lm_head.weight)
