import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from pipeline_lib.backbones import t5
from pipeline_lib.backbones.t5 import T5Decoder, build_t5, load_t5
from pipeline_lib.decoding.beam import beam_search
from pipeline_lib.decoding.trie import build_trie

SIZES, OFFSETS, END, VOCABULARY = (6, 5, 4), (2, 8, 13), 1, 20


def sharpened(model: T5ForConditionalGeneration) -> T5ForConditionalGeneration:
    """Random weights give nearly equal probabilities; larger ones, position biases included, tell mistakes apart."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(3.0 if "relative_attention_bias" in name else 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return sharpened(build_t5(VOCABULARY, width=16, layers=2, heads=3, head_size=8, feed_forward=32, dropout=0.1))


@pytest.fixture(scope="module")
def inputs():
    """Five users with histories of different lengths, one of them without any."""
    input_ids = torch.randint(2, VOCABULARY, (5, 7), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(7) < torch.tensor([7, 3, 5, 1, 0])[:, None]).long()
    return input_ids * mask, mask


@pytest.fixture(scope="module")
def codes():
    return np.unique(np.random.default_rng(0).integers(0, SIZES, (40, 3)), axis=0)


def forced_log_probs(model: T5ForConditionalGeneration, inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
    """``(B, n, L + 1, V)``: the model's own forward pass for each of n token sequences ``(n, L)`` of each user."""
    input_ids, mask = inputs
    users, rows = len(input_ids), len(tokens)
    started = torch.cat([torch.zeros(rows, 1, dtype=torch.int64), tokens], dim=1)
    with torch.inference_mode():
        logits = model(input_ids=input_ids.repeat_interleave(rows, 0), attention_mask=mask.repeat_interleave(rows, 0),
                       decoder_input_ids=started.repeat(users, 1)).logits
    return logits.log_softmax(-1).unflatten(0, (users, rows))


@pytest.mark.parametrize("over_level", [False, True])
@pytest.mark.parametrize("cpu_tokens", [7, 14, 1000])  # one user a part, two, all
def test_every_item_gets_the_log_probability_of_the_plain_forward_pass(model, inputs, codes, cpu_tokens, over_level,
                                                                       monkeypatch):
    monkeypatch.setattr(t5, "CPU_TOKENS", cpu_tokens)
    monkeypatch.setattr(t5, "CPU_ROWS", 9)
    decoder, trie = T5Decoder(model), build_trie(codes, SIZES)
    step = decoder.next_log_probs(decoder.encode(*inputs), OFFSETS, SIZES, over_level=over_level)
    beams = beam_search(step, trie, num_users=5, beam_size=len(codes))
    tokens = torch.from_numpy(codes) + torch.tensor(OFFSETS)
    forced = forced_log_probs(model, inputs, tokens)[:, :, :3]
    if over_level:
        for level, (offset, size) in enumerate(zip(OFFSETS, SIZES, strict=True)):
            forced[:, :, level, offset : offset + size] = forced[:, :, level, offset : offset + size].log_softmax(-1)
    # (B, items); leaves are items here, as codes are sorted and unique
    expected = forced.gather(-1, tokens.expand(5, -1, -1)[..., None])[..., 0].sum(-1)
    torch.testing.assert_close(beams.scores, expected.gather(1, beams.leaves), rtol=1e-4, atol=1e-4)
    assert (beams.scores.std(dim=1) > 0.5).all()  # so that the comparison can tell


def test_narrow_beams_follow_their_own_parents(model, inputs, codes):
    decoder, trie = T5Decoder(model), build_trie(codes, SIZES)
    step = decoder.next_log_probs(decoder.encode(*inputs), OFFSETS, SIZES)
    beams = beam_search(step, trie, num_users=5, beam_size=4)
    tokens = torch.from_numpy(codes) + torch.tensor(OFFSETS)
    forced = forced_log_probs(model, inputs, tokens)[:, :, :3].gather(-1, tokens.expand(5, -1, -1)[..., None])
    torch.testing.assert_close(beams.scores, forced[..., 0].sum(-1).gather(1, beams.leaves), rtol=1e-4, atol=1e-4)


def test_ranked_items_and_scores_equal_generate_with_a_prefix_function(model, inputs, codes):
    tokens = codes + np.array(OFFSETS)
    following: dict[tuple, set] = {}
    for row in tokens.tolist():
        for level in range(3):
            following.setdefault(tuple(row[:level]), set()).add(row[level])
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs[0], attention_mask=inputs[1], num_beams=6, num_return_sequences=6, max_new_tokens=3,
            do_sample=False, length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
            prefix_allowed_tokens_fn=lambda _, prefix: list(following[tuple(prefix[1:].tolist())]))
    trie, decoder = build_trie(codes, SIZES), T5Decoder(model)
    step = decoder.next_log_probs(decoder.encode(*inputs), OFFSETS, SIZES)
    beams = beam_search(step, trie, num_users=5, beam_size=6)
    theirs = trie.find((output.sequences[:, 1:] - torch.tensor(OFFSETS)).unflatten(0, (5, 6)))
    assert beams.leaves.tolist() == theirs.tolist()
    torch.testing.assert_close(beams.scores, output.sequences_scores.view(5, 6), rtol=1e-4, atol=1e-4)


def test_identifiers_of_several_lengths_end_with_the_end_token(model, inputs):
    codes = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 2], [3, 4, 1]])
    sizes, closed = (*SIZES, 0), np.c_[codes, [-1] * 4]  # a level more, so that full identifiers end too
    trie, decoder = build_trie(closed, sizes), T5Decoder(model)
    step = decoder.next_log_probs(decoder.encode(*inputs), (*OFFSETS, 17), sizes, end_token=END)
    beams = beam_search(step, trie, num_users=5, beam_size=4)
    found = beams.scores.gather(1, beams.leaves.argsort(1))
    leaves = trie.find(torch.from_numpy(closed))
    for item, row in enumerate(codes):
        tokens = torch.tensor([code + offset for code, offset in zip(row, OFFSETS, strict=True) if code >= 0])
        forced = forced_log_probs(model, inputs, tokens[None])[:, 0]
        expected = sum(forced[:, at, token] for at, token in enumerate([*tokens.tolist(), END]))
        torch.testing.assert_close(found[:, leaves[item]], expected, rtol=1e-4, atol=1e-4)


def test_gated_and_untied_variants_equal_their_forward_pass(inputs):
    torch.manual_seed(2)
    config = T5Config(vocab_size=VOCABULARY, d_model=16, num_layers=1, num_decoder_layers=2, num_heads=2, d_kv=8,
                      d_ff=24, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
    model = sharpened(T5ForConditionalGeneration(config))
    assert not model.config.scale_decoder_outputs
    decoder = T5Decoder(model)
    step = decoder.next_log_probs(decoder.encode(*inputs), OFFSETS, SIZES)
    first = step(0, None, None)
    chosen = torch.tensor([[1, 4]]).expand(5, -1)
    second = step(1, chosen, torch.zeros_like(chosen))
    forced = forced_log_probs(model, inputs, torch.tensor([[3], [6]]))
    torch.testing.assert_close(first[:, 0], forced[:, 0, 0, 2:8], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second, forced[:, :, 1, 8:13], rtol=1e-4, atol=1e-4)


def test_under_bfloat16_autocast_scores_stay_near(model, inputs, codes):
    trie, scores = build_trie(codes, SIZES), []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            decoder = T5Decoder(model)
            step = decoder.next_log_probs(decoder.encode(*inputs), OFFSETS, SIZES)
            beams = beam_search(step, trie, num_users=5, beam_size=len(codes))
        scores.append(beams.scores.gather(1, beams.leaves.argsort(1)))
    assert scores[1].dtype == torch.float32
    assert not torch.equal(*scores)
    torch.testing.assert_close(*scores, rtol=0.1, atol=0.5)


def test_a_model_that_trains_is_refused(model, inputs):
    model.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            T5Decoder(model).encode(*inputs)
    finally:
        model.eval()


def test_built_models_are_t5_as_first_published():
    model = build_t5(30, width=16, layers=3, heads=2, head_size=4, feed_forward=32, dropout=0.2, pad_id=5)
    assert len(model.encoder.block) == len(model.decoder.block) == 3
    assert model.lm_head.weight is model.shared.weight
    assert model.config.decoder_start_token_id == 5 and model.generation_config.eos_token_id is None
    assert isinstance(model.encoder.block[0].layer[1].DenseReluDense.act, torch.nn.ReLU)


def test_a_saved_model_is_loaded_and_grown_but_never_cut(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, grown = load_t5(str(tmp_path), vocab_size=3), load_t5(str(tmp_path), vocab_size=25)
    assert torch.equal(loaded.shared.weight, model.shared.weight)
    assert grown.shared.weight.shape == grown.lm_head.weight.shape == (25, 16)
    assert torch.equal(grown.shared.weight[:VOCABULARY], model.shared.weight)


def test_a_model_saved_in_half_precision_is_trained_in_float32(model, tmp_path):
    T5ForConditionalGeneration(model.config).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {weight.dtype for weight in load_t5(str(tmp_path)).parameters()} == {torch.float32}


def test_pickled_weights_and_missing_models_are_refused_with_advice(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="local folder as backbone, or set pretrained to null"):
            load_t5(str(place))
