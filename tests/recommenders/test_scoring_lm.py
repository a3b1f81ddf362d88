"""On a toy catalogue of two kinds: items 0 to 2, which all users take, and items 3 to 5, which none does."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pipeline_lib.backbones.causal_lm import (
    Backbone, Lora, add_lora, build_causal_lm, restore_backbone, save_backbone,
)
from pipeline_lib.backbones.text_tokenizer import train_byte_tokenizer
from pipeline_lib.evaluation.scoring import scoring_figures
from pipeline_lib.interactions.candidates import draw_candidates
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders import scoring_lm
from pipeline_lib.recommenders.scoring_lm import Config, load_ranker, train, with_answers
from pipeline_lib.recommenders.yes_no_network import YesNoLM
from pipeline_lib.recommenders.yes_no_pairs import Pairs
from pipeline_lib.records import Candidates, Catalogue, Identifiers, RecommenderInputs
from pipeline_lib.sequences.yes_no_prompts import WORDS
from pipeline_lib.training.checkpoints import Checkpoints
from tests.recommenders.conftest import split_of

NUM_ITEMS, NUM_USERS = 6, 40
BACKBONE = Backbone(layers=1, heads=2, width=16, feed_forward=32, vocabulary=400, max_positions=256)
FULL = Lora(rank=0, dropout=0.0)
CONFIG = Config(BACKBONE, FULL, max_items=1, max_tokens=200, max_text=4, numbered=False)
TRAINING = TrainingParams(epochs=1, batch_size=32, learning_rate=0.01, patience=30)
DECODE = DecodeParams("score", batch_size=50, filter_history=False)


def embedder_of(texts, words=("YES", "NO")):
    """A language model as an embedding source trained it, its weights larger than new ones, and its tokenizer."""
    torch.manual_seed(3)
    tokenizer = train_byte_tokenizer(texts, 600).with_tokens(words)
    lm = build_causal_lm(BACKBONE, tokenizer.size, 0, 1)
    for weight in lm.parameters():
        weight.data *= 4 if weight.ndim > 1 else 1
    return dict(zip(("embedder", "embedder_json"), save_backbone(lm, tokenizer, BACKBONE, FULL), strict=True))


def make_inputs():
    rng = np.random.default_rng(0)
    walks = [np.append(rng.permutation(3), rng.integers(0, 3, size=2)) for _ in range(NUM_USERS)]
    split = split_of(walks, np.ones(NUM_ITEMS, dtype=bool), users=np.arange(0, 2 * NUM_USERS, 2, dtype=np.int32))
    drawn = draw_candidates(split, "sampled", negatives=3, users=None, seed=0)
    split = replace(split, candidates={part: Candidates(*arrays) for part, arrays in drawn.items()})
    identifiers = Identifiers(np.array(list(product(range(2), range(3))), dtype=np.int32), (2, 3))
    vectors = np.zeros((NUM_ITEMS, 2), dtype=np.float32)
    names = [f"{number} is a long name" for number in range(NUM_ITEMS)]
    return RecommenderInputs({}, {}, identifiers, split, vectors, vectors,
                             catalogue=Catalogue(names, names, [*names[:-1], ""]),
                             **embedder_of([*map(str.lower, WORDS), *names]))


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


def trained(inputs, config, accelerator, folder, training=TRAINING):
    model = train(inputs, config, training, checkpoints=Checkpoints(folder / "run"), accelerator=accelerator, seed=0)
    return replace(model, config=json.loads(json.dumps(model.config)))  # as an artifact has it


@pytest.fixture(scope="module")
def model(inputs, accelerator, tmp_path_factory):
    training = replace(TRAINING, epochs=8, validate_every=4)
    folder = tmp_path_factory.mktemp("checkpoints")
    return trained(inputs, replace(CONFIG, start="merged"), accelerator, folder, training)


def ranker_of(model, inputs, accelerator, decode=DECODE):
    return load_ranker(model, inputs, decode, accelerator=accelerator, seed=0)


def figures_of(scores, candidates):
    return scoring_figures(candidates.users, candidates.labels, scores)


def network_of(code_weight=0.0):
    torch.manual_seed(0)
    return YesNoLM(build_causal_lm(BACKBONE, 50, 0, 1), 5, (7, 9), code_weight).eval()


BATCH = {"input_ids": torch.tensor([[3, 50, 52, 4, 5], [8, 54, 2, 0, 0]]), "lengths": torch.tensor([5, 3]),
         "labels": torch.tensor([1, 0]), "said": torch.tensor([[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]]).bool()}


def test_a_score_is_the_softmax_over_exactly_two_logits_of_the_last_token():
    network = network_of()
    scores = network.scores(BATCH)
    for row, length in ((0, 5), (1, 3)):  # one unpadded prompt at a time, by the model's own head
        ids = BATCH["input_ids"][row, :length]
        table = torch.cat([network.lm.get_input_embeddings().weight, network.codes.weight])
        logits = network.lm(inputs_embeds=table[ids][None]).logits[0, -1]
        torch.testing.assert_close(scores[row], (logits[7].exp() / (logits[7].exp() + logits[9].exp())))
    assert ((scores > 0) & (scores < 1)).all()


def test_answers_are_exact_in_mixed_precision_too():
    network, generator = network_of(), torch.Generator().manual_seed(0)
    states, lengths = 8.0 + torch.randn(30, 4, 16, generator=generator), torch.full((30,), 4)
    exact = network.answer_logits(states, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.answer_logits(states, lengths), exact)


def test_the_loss_is_the_summed_binary_cross_entropy_of_the_score():
    network = network_of()
    scores = network.scores(BATCH)
    loss, count = network(BATCH)
    torch.testing.assert_close(loss, -scores[0].log() - (1 - scores[1]).log())
    assert count == 2


def test_with_a_code_weight_each_prompt_adds_its_mean_cross_entropy_of_codes():
    network = network_of(code_weight=0.5)
    log_probs = (network.states(BATCH) @ network.codes.weight.T).log_softmax(-1)
    codes = (log_probs[0, 0, 0] + log_probs[0, 1, 2]) / 2 + log_probs[1, 0, 4]
    torch.testing.assert_close(network(BATCH)[0], network_of()(BATCH)[0] - 0.5 * codes)


def test_the_loss_of_codes_has_the_weight_of_the_options(model, inputs, accelerator):
    plain, weighed = (ranker_of(replace(model, config=model.config | {"code_weight": weight}), inputs, accelerator)
                      for weight in (0.0, 0.5))
    batch = Pairs(plain.prompts["codes"], inputs.split, "train", inputs.split.candidates["train"]).collate(np.arange(8))
    with torch.inference_mode():
        codes = plain.network.code_loss(plain.network.states(batch), batch)
        torch.testing.assert_close(weighed.network(batch)[0], plain.network(batch)[0] + 0.5 * codes)
    assert codes > 1


def test_a_batch_without_rows_reaches_all_trainable_weights_and_counts_nothing():
    network = network_of()
    nothing = torch.zeros(0, dtype=torch.int64)
    loss, count = network({"input_ids": nothing[:, None], "lengths": nothing, "labels": nothing})
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)
    assert all(weight.grad is not None and not weight.grad.any() for weight in network.parameters())


def test_with_adapters_words_and_answers_are_frozen_and_adapters_and_codes_learn():
    network = network_of()
    add_lora(network.lm, Lora(rank=2, dropout=0.0))
    network(BATCH)[0].backward()
    learning = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert "codes.weight" in learning and len(learning) > 2
    assert all("lora_" in name for name in learning - {"codes.weight"})


def test_pairs_are_the_prompts_of_their_users_and_candidates(inputs, model, accelerator):
    prompts = ranker_of(model, inputs, accelerator).prompts["codes"]
    pairs = Pairs(prompts, inputs.split, "train", inputs.split.candidates["train"])
    chosen = np.array([5, 0, 17, 90])
    batch = pairs.collate(chosen)
    for row, place in enumerate(chosen):
        candidates = inputs.split.candidates["train"]
        user = np.flatnonzero(inputs.split.train_users == candidates.users[place])[0]
        history = Ragged.from_rows([inputs.split.train[user][:-1][-1:]])  # without the target, and the last one of it
        expected = prompts.prompts(history, candidates.items[[place]].astype(np.int64))[0]
        length = int(batch["lengths"][row])
        assert batch["input_ids"][row, :length].tolist() == expected.tolist() and length == pairs.lengths[place]
    assert batch["labels"].tolist() == inputs.split.candidates["train"].labels[chosen].tolist()


def test_it_learns_which_items_are_wanted_and_its_scores_are_probabilities(model, inputs, accelerator):
    scores = ranker_of(model, inputs, accelerator).score("test")
    assert ((scores > 0) & (scores < 1)).all()
    assert figures_of(scores, inputs.split.candidates["test"])["group_auc"] > 0.95
    assert [row["epoch"] for row in model.training if "valid_auc" in row] == [4, 8]


def test_validation_figures_are_those_of_the_saved_model(model, inputs, accelerator):
    scores = ranker_of(model, inputs, accelerator).score("valid")
    best = max(row["valid_auc"] for row in model.training if "valid_auc" in row)
    assert figures_of(scores, inputs.split.candidates["valid"])["auc"] == pytest.approx(best)


def test_scores_depend_on_the_history(model, inputs, accelerator):
    test = inputs.split.test
    others = replace(test, histories=Ragged(5 - test.histories.values, test.histories.offsets))
    one, two = (ranker_of(model, replace(inputs, split=replace(inputs.split, test=cases)), accelerator).score("test")
                for cases in (test, others))
    assert (np.abs(one - two) > 1e-6).mean() > 0.9


def test_scores_depend_neither_on_the_size_of_batches_nor_on_labels(model, inputs, accelerator):
    candidates = inputs.split.candidates["test"]
    turned = replace(inputs.split, candidates={"test": replace(candidates, labels=1 - candidates.labels)})
    one, two, blind = (ranker_of(model, given, accelerator, replace(DECODE, batch_size=size)).score("test")
                       for given, size in ((inputs, 1), (inputs, 500), (replace(inputs, split=turned), 500)))
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.array_equal(two, blind)


def test_a_prompt_of_texts_costs_more_tokens_than_one_of_codes(model, inputs, accelerator):
    ranker = ranker_of(model, inputs, accelerator)
    tokens = ranker.prompt_tokens("test")
    pairs = Pairs(ranker.prompts["text"], inputs.split, "test", inputs.split.candidates["test"])
    assert tokens["text"] == pytest.approx(pairs.collate(np.arange(len(pairs.rows)))["lengths"].float().mean().item())
    assert tokens["text"] == pytest.approx(tokens["codes"] + 2 * 2)  # an item of history, a candidate; 4 tokens for 2
    without = replace(inputs, catalogue=None)
    assert ranker_of(model, without, accelerator).prompt_tokens("test") == {"codes": tokens["codes"]}


def test_answers_that_a_tokenizer_of_our_own_lacks_are_added_as_one_token_each(inputs):
    tokenizer = train_byte_tokenizer(["no answers here"], 260)
    torch.manual_seed(0)
    lm = build_causal_lm(BACKBONE, tokenizer.size, 0, 1)
    before = lm.get_input_embeddings().weight.detach().clone()
    lm, added = with_answers(lm, tokenizer, CONFIG)
    assert [added.encode(word) for word in ("YES", "NO")] == [[tokenizer.size], [tokenizer.size + 1]]
    assert lm.get_output_embeddings().weight.shape == (tokenizer.size + 2, 16)
    assert torch.equal(lm.get_input_embeddings().weight[: tokenizer.size], before)
    assert with_answers(lm, added, CONFIG) == (lm, added)
    with pytest.raises(ValueError, match="writes YES as 3 tokens, but an answer must be one"):
        with_answers(lm, tokenizer, replace(CONFIG, backbone=Backbone(pretrained="some/model")))


def test_zero_shot_texts_are_asked_of_the_model_as_it_is(inputs, accelerator, tmp_path):
    config = replace(CONFIG, start="merged", inputs="text_zero_shot")
    model = trained(inputs, config, accelerator, tmp_path)
    assert model.training == []
    assert model.tensors.keys() == inputs.embedder.keys()
    assert all(np.array_equal(value, model.tensors[name]) for name, value in inputs.embedder.items())
    ranker = ranker_of(model, inputs, accelerator)
    scores = ranker.score("valid")
    assert len(set(scores)) > 1 and ((scores > 0) & (scores < 1)).all()
    lm, tokenizer = restore_backbone(inputs.embedder, inputs.embedder_json)
    pairs = Pairs(ranker.prompts["text"], inputs.split, "valid", inputs.split.candidates["valid"])
    with torch.inference_mode():
        odds = lm(pairs.collate(np.array([0]))["input_ids"]).logits[0, -1].exp()
    yes, no = (odds[tokenizer.id_of(word)].item() for word in ("YES", "NO"))
    assert scores[0] == pytest.approx(yes / (yes + no), rel=1e-4)
    assert abs(yes - no) > 0.01 * yes


def test_zero_shot_refuses_a_model_that_does_not_know_the_answers(inputs, accelerator, tmp_path):
    with pytest.raises(ValueError, match="writes YES as 3 tokens, .* or inputs=text, which trains"):
        trained(replace(inputs, **embedder_of(["name"], ())), replace(CONFIG, start="merged", inputs="text_zero_shot"),
                accelerator, tmp_path)


def test_texts_are_trained_with_adapters_that_are_merged_and_need_no_codes(inputs, accelerator, tmp_path):
    config = replace(CONFIG, start="merged", inputs="text", lora=Lora(rank=2, dropout=0.0))
    model = trained(inputs, config, accelerator, tmp_path)
    changed = {name for name, value in inputs.embedder.items() if not np.array_equal(value, model.tensors[name])}
    assert changed == {f"backbone.model.decoder.layers.0.self_attn.{part}_proj.weight" for part in "qv"}
    assert "codes" not in model.tensors
    scores = ranker_of(model, inputs, accelerator).score("valid")
    assert figures_of(scores, inputs.split.candidates["valid"])["auc"] == pytest.approx(model.training[0]["valid_auc"])


def test_equal_seeds_give_equal_bits_also_after_a_kill(inputs, accelerator, train_through_a_kill):
    training = replace(TRAINING, epochs=3, validate_users=20)
    calls = train_through_a_kill(lambda folder: trained(inputs, CONFIG, accelerator, folder, training),
                                 scoring_lm, "_validate", at=2)
    assert len(calls) == 4 and len(set(calls[0][1].candidates.users)) == 20


def test_test_users_are_never_read_in_training(inputs, accelerator, tmp_path):
    candidates = {part: inputs.split.candidates[part] for part in ("train", "valid")}
    hidden = replace(inputs, split=replace(inputs.split, test=None, candidates=candidates))
    assert len(trained(hidden, CONFIG, accelerator, tmp_path).training) == 1


@pytest.mark.parametrize(("changes", "message"), [
    ({"inputs": "text_zero_shot"}, "asks a language model as it is, but .* is built new"),
    ({"max_tokens": 500}, "max_tokens is 500, but the language model has 256 positions"),
    ({"start": "merged", "backbone": Backbone(pretrained="some/model")}, "set tokenizer.source=dense, or start=fresh"),
])
def test_impossible_options_are_refused(changes, message, inputs, accelerator, tmp_path):
    with pytest.raises(ValueError, match=message):
        trained(replace(inputs, embedder={}, embedder_json={}), replace(CONFIG, **changes), accelerator, tmp_path)


def test_what_it_cannot_be_trained_on_is_refused(inputs, accelerator, tmp_path):
    with pytest.raises(ValueError, match="no candidates to score; set split.candidates.source"):
        trained(replace(inputs, split=replace(inputs.split, candidates={})), CONFIG, accelerator, tmp_path)
    with pytest.raises(ValueError, match="no item has a text"):
        trained(replace(inputs, catalogue=None), replace(CONFIG, inputs="text"), accelerator, tmp_path)


def test_strangers_and_codes_of_other_sizes_are_refused(inputs, model, accelerator):
    candidates = inputs.split.candidates["test"]
    strange = replace(candidates, users=candidates.users + 1)
    given = replace(inputs, split=replace(inputs.split, candidates={"test": strange}))
    with pytest.raises(ValueError, match="user 1 is not a user of that part; re-run split"):
        ranker_of(model, given, accelerator).score("test")
    given = replace(inputs, identifiers=Identifiers(inputs.identifiers.codes, (2, 4)))
    with pytest.raises(ValueError, match="6 code tokens, but the model was trained with 5; re-run finetune"):
        ranker_of(model, given, accelerator)
