"""On a toy catalogue where the next item follows from the last one: 0 -> 1 -> 2 -> ... -> 0."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pipeline_lib.params import DecodeParams, SequencesParams, TrainingParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.code_seq2seq import CodeSeq2Seq, collate
from pipeline_lib.recommenders.seq2seq import Config, load_ranker, train
from pipeline_lib.records import Identifiers, RecommenderInputs
from pipeline_lib.sequences.code_examples import build_examples
from pipeline_lib.sequences.code_tokens import Vocabulary
from pipeline_lib.training.checkpoints import Checkpoints
from tests.recommenders.conftest import circular_walks, split_of

NUM_ITEMS = 9
CONFIG = Config(layers=1, heads=2, head_size=8, width=16, feed_forward=32, dropout=0.0)
TRAINING = TrainingParams(epochs=30, batch_size=32, learning_rate=0.02, patience=30)
DECODE = DecodeParams("beam", beam_size=NUM_ITEMS, top_k=NUM_ITEMS, batch_size=7, filter_history=False)


def make_inputs():
    walks = circular_walks(np.random.default_rng(0).integers(0, NUM_ITEMS, size=60), NUM_ITEMS)
    split = replace(split_of(walks, np.arange(NUM_ITEMS) < 6), filter_history=False)
    identifiers = Identifiers(np.array(list(product(range(3), range(3))), dtype=np.int32), (3, 4))
    examples, vocabulary = build_examples(split, identifiers, SequencesParams(4, "prefixes", 3))
    vectors = np.zeros((NUM_ITEMS, 2), dtype=np.float32)
    return RecommenderInputs(examples, vocabulary, identifiers, split, vectors, vectors)


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


@pytest.fixture(scope="module")
def model(inputs, accelerator, tmp_path_factory):
    return train(inputs, CONFIG, TRAINING, checkpoints=Checkpoints(tmp_path_factory.mktemp("checkpoints") / "run"),
                 accelerator=accelerator, seed=0)


@pytest.fixture(scope="module")
def level_model(inputs, accelerator, tmp_path_factory):
    return train(inputs, replace(CONFIG, softmax="level"), replace(TRAINING, epochs=8), accelerator=accelerator, seed=0,
                 checkpoints=Checkpoints(tmp_path_factory.mktemp("level") / "run"))


def ranked(model, inputs, accelerator, decode=DECODE):
    ranker = load_ranker(model, inputs, decode, accelerator=accelerator, seed=0)
    return ranker.rank(inputs.examples["test"], inputs.split.test)


def test_the_loss_is_the_summed_cross_entropy_of_the_labels(inputs):
    torch.manual_seed(0)
    network = CodeSeq2Seq(CONFIG, Vocabulary.from_json(inputs.vocabulary)).eval()
    batch = collate(inputs.examples["train"], np.array([0, 1, 2]))
    loss, count = network(batch)
    assert int(count) == 6
    expected = 0.0
    for row in range(3):  # one unpadded example at a time, one label after the other
        tokens = inputs.examples["train"].input_ids[row]
        labels = inputs.examples["train"].labels[row].tolist()
        for place, label in enumerate(labels):
            logits = network.t5(input_ids=torch.from_numpy(tokens).long()[None],
                                decoder_input_ids=torch.tensor([[0, *labels[:place]]])).logits[0, -1]
            expected -= logits.log_softmax(-1)[label].item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_softmax_over_the_level_is_the_cross_entropy_among_its_codes(inputs):
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_json(inputs.vocabulary)
    network = CodeSeq2Seq(replace(CONFIG, softmax="level"), vocabulary).eval()
    batch = collate(inputs.examples["train"], np.array([0, 1, 2]))
    loss, count = network(batch)
    with torch.no_grad():
        logits = network.t5(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                            labels=batch["labels"]).logits
    expected = 0.0
    for row, labels in enumerate(batch["labels"].tolist()):
        for level, label in enumerate(labels):
            offset, size = vocabulary.level_offsets[level], vocabulary.level_sizes[level]
            expected -= logits[row, level, offset : offset + size].log_softmax(-1)[label - offset].item()
    assert (loss.item(), int(count)) == (pytest.approx(expected, rel=1e-5), 6)


def test_ranking_scores_are_normalised_over_the_level_where_training_is(inputs, accelerator, tmp_path):
    config = replace(CONFIG, softmax="level")
    trained = train(inputs, config, replace(TRAINING, epochs=1), checkpoints=Checkpoints(tmp_path / "run"),
                    accelerator=accelerator, seed=0)
    ranking = ranked(trained, inputs, accelerator).rankings[0]
    total = [np.exp(ranking.scores[start:stop]).sum()
             for start, stop in zip(ranking.items.offsets, ranking.items.offsets[1:])]
    np.testing.assert_array_less(total, 1)  # 9 of the 12 identifiers are items
    assert min(total) > 0.6


@pytest.mark.parametrize("softmax", ["vocabulary", "level"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_loss_divides_logits_by_the_softmax_temperature(inputs, softmax, temperature):
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_json(inputs.vocabulary)
    network = CodeSeq2Seq(replace(CONFIG, softmax=softmax, softmax_temperature=temperature), vocabulary).eval()
    batch = collate(inputs.examples["train"], np.array([0, 1, 2]))
    with torch.no_grad():
        network.t5.lm_head.weight.mul_(3)  # logits that differ
        loss = network(batch)[0]
        logits = network.t5(**batch).logits
    levels = list(zip(vocabulary.level_offsets, vocabulary.level_sizes))
    expected = 0.0
    for row, labels in enumerate(batch["labels"].tolist()):
        for level, label in enumerate(labels):
            first, size = levels[level] if softmax == "level" else (0, vocabulary.size)
            scores = np.exp(logits[row, level, first : first + size].double().numpy() / temperature)
            expected -= np.log(scores[label - first] / scores.sum())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_temperature_of_one_is_the_plain_loss_and_ranking_never_divides(model, inputs, accelerator):
    batch = collate(inputs.examples["train"], np.arange(5))
    cold = replace(model, config={**model.config, "softmax_temperature": 0.5})
    plain, divided = (load_ranker(each, inputs, DECODE, accelerator=accelerator, seed=0).model.eval()
                      for each in (model, cold))
    states = plain.states(batch)[1]
    logits = plain.t5.lm_head(states * plain.t5.config.d_model**-0.5).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
    found, other = (each.loss(states, batch["labels"])[0].item() for each in (plain, divided))
    assert found == expected.item() != other
    one, two = (ranked(each, inputs, accelerator).rankings[0] for each in (model, cold))
    assert np.array_equal(one.items.values, two.items.values) and np.array_equal(one.scores, two.scores)


def test_it_learns_what_follows_what(model, inputs, accelerator):
    lists = ranked(model, inputs, accelerator).rankings[0].items
    hits = [row[0] == target[0] for row, target in zip(lists, inputs.split.test.targets, strict=True)]
    assert np.mean(hits) > 0.95
    assert model.training[-1]["train_loss"] < model.training[0]["train_loss"] / 3


def test_equal_seeds_give_equal_bits(model, inputs, accelerator, tmp_path):
    again = train(inputs, CONFIG, TRAINING, checkpoints=Checkpoints(tmp_path / "run"), accelerator=accelerator, seed=0)
    assert all(np.array_equal(value, again.tensors[name]) for name, value in model.tensors.items())
    assert model.training == again.training
    one, two = (ranked(trained, inputs, accelerator).rankings[0] for trained in (model, again))
    assert np.array_equal(one.items.values, two.items.values) and np.array_equal(one.scores, two.scores)


@pytest.mark.parametrize("softmax", ["vocabulary", "level"])
def test_a_beam_as_wide_as_the_catalogue_ranks_all_items_by_their_exact_log_probability(softmax, inputs, accelerator,
                                                                                        request):
    model = request.getfixturevalue("level_model" if softmax == "level" else "model")
    ranking = ranked(model, inputs, accelerator).rankings[0]
    network = load_ranker(model, inputs, DECODE, accelerator=accelerator, seed=0).model.eval()
    item_tokens = inputs.identifiers.codes + np.array(inputs.vocabulary["level_offsets"])
    for row in (0, 17, 59):
        tokens = torch.from_numpy(inputs.examples["test"].input_ids[row]).long()
        labels = torch.from_numpy(item_tokens).long()
        with torch.no_grad():
            logits = network.t5(input_ids=tokens.expand(NUM_ITEMS, -1), labels=labels).logits
        if softmax == "level":
            sizes = zip(inputs.vocabulary["level_offsets"], inputs.vocabulary["level_sizes"], strict=True)
            for level, (offset, size) in enumerate(sizes):
                logits[:, level, :offset] = logits[:, level, offset + size :] = -torch.inf
        scores = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).sum((1, 2)).numpy()
        start, stop = ranking.items.offsets[row : row + 2]
        assert ranking.items[row].tolist() == np.argsort(-scores).tolist()
        np.testing.assert_allclose(ranking.scores[start:stop], np.sort(scores)[::-1], rtol=1e-4)


def test_warm_and_cold_lists_hold_items_of_their_set_only(model, inputs, accelerator):
    result = ranked(model, inputs, accelerator, replace(DECODE, candidate_sets=True))
    assert [ranking.candidates for ranking in result.rankings] == ["all", "warm", "cold"]
    assert set(result.rankings[1].items.values) == set(range(6))
    assert set(result.rankings[2].items.values) == {6, 7, 8}


def test_items_that_share_an_identifier_come_in_an_order_of_the_seed_not_in_that_of_the_catalogue(model, inputs,
                                                                                                  accelerator):
    shared = replace(inputs, identifiers=replace(inputs.identifiers, codes=np.ones_like(inputs.identifiers.codes)))
    orders = []
    for seed in (0, 0, 1):
        ranker = load_ranker(model, shared, DECODE, accelerator=accelerator, seed=seed)
        lists = {tuple(row) for row in ranker.rank(inputs.examples["test"], inputs.split.test).rankings[0].items}
        assert len(lists) == 1
        orders += lists
    assert [sorted(order) for order in orders] == [list(range(NUM_ITEMS))] * 3
    assert orders[0] == orders[1] != orders[2]
    assert tuple(range(NUM_ITEMS)) not in orders


def test_history_is_left_out_where_asked(model, inputs, accelerator):
    lists = ranked(model, inputs, accelerator, replace(DECODE, filter_history=True)).rankings[0].items
    for row, history in zip(lists, inputs.split.test.histories, strict=True):
        assert sorted([*row, *history]) == list(range(NUM_ITEMS))


def test_a_soft_beam_may_yield_what_is_no_item(model, inputs, accelerator):
    assert ranked(model, inputs, accelerator).invalid_share == 0
    result = ranked(model, inputs, accelerator, replace(DECODE, kind="soft_beam", beam_size=12))
    assert result.invalid_share == pytest.approx(3 / 12)
    assert all(len(row) == NUM_ITEMS for row in result.rankings[0].items)


def test_the_result_does_not_depend_on_the_size_of_batches(model, inputs, accelerator):
    one, two = (ranked(model, inputs, accelerator, replace(DECODE, batch_size=size)).rankings[0] for size in (1, 60))
    assert np.array_equal(one.items.values, two.items.values)
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)


@pytest.fixture(scope="module")
def varying(inputs):
    """The same walks over identifiers of 1, 2 and 3 codes, of which some begin others."""
    rows = [[0], [0, 0], [0, 1, 2], [1, 2], [1], [2, 1, 0], [2, 1, 1], [2, 1], [2]]
    identifiers = Identifiers(Ragged.from_rows(rows).padded(-1), (3, 3, 3))
    examples, vocabulary = build_examples(inputs.split, identifiers, SequencesParams(4, "prefixes", 3))
    return replace(inputs, identifiers=identifiers, examples=examples, vocabulary=vocabulary)


@pytest.fixture(scope="module")
def varying_model(varying, accelerator, tmp_path_factory):
    return train(varying, CONFIG, TRAINING, checkpoints=Checkpoints(tmp_path_factory.mktemp("varying") / "run"),
                 accelerator=accelerator, seed=0)


def exhaustive_scores(network, varying, row):
    """Log-probability of each item's codes and end, by T5's own forward pass, one item at a time."""
    tokens = torch.from_numpy(varying.examples["test"].input_ids[row]).long()[None]
    scores = []
    for codes in varying.identifiers.codes:
        labels = [int(code) + offset for code, offset in zip(codes, varying.vocabulary["level_offsets"]) if code >= 0]
        labels = torch.tensor([*labels, varying.vocabulary["end"]])
        with torch.no_grad():
            logits = network.t5(input_ids=tokens, labels=labels[None]).logits[0]
        scores.append(logits.log_softmax(-1).gather(-1, labels[:, None]).sum().item())
    return np.array(scores)


@pytest.mark.parametrize("kind", ["beam", "soft_beam"])
def test_identifiers_of_several_lengths_are_ranked_by_their_exact_log_probability_with_the_end(
        varying_model, varying, accelerator, kind):
    decode = replace(DECODE, kind=kind, beam_size=NUM_ITEMS if kind == "beam" else 60)
    ranking = ranked(varying_model, varying, accelerator, decode).rankings[0]
    network = load_ranker(varying_model, varying, decode, accelerator=accelerator, seed=0).model.eval()
    for row in (0, 17, 59):
        scores = exhaustive_scores(network, varying, row)
        start, stop = ranking.items.offsets[row : row + 2]
        assert ranking.items[row].tolist() == np.argsort(-scores).tolist()
        np.testing.assert_allclose(ranking.scores[start:stop], np.sort(scores)[::-1], rtol=1e-4)


def test_every_item_of_any_length_is_reached_once_and_the_next_one_is_learnt(varying_model, varying, accelerator):
    result = ranked(varying_model, varying, accelerator)
    lists = result.rankings[0].items
    assert all(sorted(row) == list(range(NUM_ITEMS)) for row in lists) and result.invalid_share == 0
    assert np.mean([row[0] == target[0] for row, target in zip(lists, varying.split.test.targets, strict=True)]) > 0.95


def test_a_part_of_the_items_that_is_of_one_length_is_scored_with_the_end_too(varying_model, varying, accelerator):
    warm = np.isin(np.arange(NUM_ITEMS), [0, 4, 8])  # one code each
    parted = replace(varying, split=replace(varying.split, warm=warm))
    every, of_warm, of_cold = ranked(varying_model, parted, accelerator, replace(DECODE, candidate_sets=True)).rankings
    for part, wanted in ((of_warm, warm), (of_cold, ~warm)):
        kept = wanted[every.items.values]
        assert np.array_equal(part.items.values, every.items.values[kept])
        np.testing.assert_allclose(part.scores, every.scores[kept], rtol=1e-5)


def test_a_softmax_over_the_level_refuses_identifiers_of_several_lengths(varying):
    with pytest.raises(ValueError, match="softmax=level needs identifiers of one length"):
        CodeSeq2Seq(replace(CONFIG, softmax="level"), Vocabulary.from_json(varying.vocabulary))
