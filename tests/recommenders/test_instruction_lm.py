"""On a toy catalogue where the next item follows from the last one: 0 -> 1 -> 2 -> ... -> 0."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pipeline_lib.backbones.causal_lm import Backbone, Lora, add_lora, build_causal_lm, save_backbone
from pipeline_lib.backbones.text_tokenizer import train_byte_tokenizer
from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.params import DecodeParams, SequencesParams, TrainingParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders import instruction_lm
from pipeline_lib.recommenders.instruction_lm import Config, load_ranker, train
from pipeline_lib.recommenders.instruction_network import InstructionLM
from pipeline_lib.records import Catalogue, Identifiers, RecommenderInputs
from pipeline_lib.sequences.instruction_examples import build_examples
from pipeline_lib.training.checkpoints import Checkpoints
from tests.recommenders.conftest import circular_walks, split_of

NUM_ITEMS = 9
BACKBONE = Backbone(layers=1, heads=2, width=16, feed_forward=32, vocabulary=300, max_positions=128)
FULL = Lora(rank=0, dropout=0.0)
CONFIG = Config(BACKBONE, FULL, joint_epochs=2, next_epochs=20, max_items=4, max_tokens=120, max_text=4, numbered=False)
TRAINING = TrainingParams(epochs=20, batch_size=6, learning_rate=0.03, patience=30, validate_every=5)
DECODE = DecodeParams("beam", beam_size=NUM_ITEMS, top_k=NUM_ITEMS, batch_size=7, filter_history=False)


def inputs_of(codes, sizes):
    walks = circular_walks(np.random.default_rng(0).integers(0, NUM_ITEMS, size=60), NUM_ITEMS)
    split = replace(split_of(walks, np.arange(NUM_ITEMS) < 6), filter_history=False)
    identifiers = Identifiers(codes, sizes)
    examples, vocabulary = build_examples(split, identifiers, SequencesParams(4, "last"))
    vectors = np.zeros((NUM_ITEMS, 2), dtype=np.float32)
    names = [f"item {number}" for number in range(NUM_ITEMS)]
    return RecommenderInputs(examples, vocabulary, identifiers, split, vectors, vectors,
                             catalogue=Catalogue(names, names, [*names[:-1], ""]))


def make_inputs():
    return inputs_of(np.array(list(product(range(3), range(3))), dtype=np.int32), (3, 4))


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


@pytest.fixture(scope="module")
def varying():
    """Identifiers of 1, 2 and 3 codes, of which some begin others."""
    rows = [[0], [0, 0], [0, 1, 2], [1, 2], [1], [2, 1, 0], [2, 1, 1], [2, 1], [2]]
    return inputs_of(Ragged.from_rows(rows).padded(-1), (3, 3, 3))


def trained(inputs, config, accelerator, folder, training=TRAINING):
    model = train(inputs, config, training, checkpoints=Checkpoints(folder / "run"), accelerator=accelerator, seed=0)
    return replace(model, config=json.loads(json.dumps(model.config)))  # as an artifact has it


@pytest.fixture(scope="module")
def model(inputs, accelerator, tmp_path_factory):
    return trained(inputs, CONFIG, accelerator, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def varying_model(varying, accelerator, tmp_path_factory):
    return trained(varying, CONFIG, accelerator, tmp_path_factory.mktemp("varying"))


def ranked(model, inputs, accelerator, decode=DECODE, part="test"):
    ranker = load_ranker(model, inputs, decode, accelerator=accelerator, seed=0)
    return ranker.rank(inputs.examples[part], getattr(inputs.split, part), part)


def network_of(inputs, config=CONFIG):
    torch.manual_seed(0)
    lm = build_causal_lm(BACKBONE, 50, 0, 1)
    codes = inputs.identifiers.codes
    return InstructionLM(lm, 50, inputs.identifiers.level_sizes, bool((codes < 0).any()), config.softmax).eval()


def test_the_loss_is_the_weighted_cross_entropy_of_codes_and_words_each_by_its_own_head(inputs):
    network = network_of(inputs)
    tokens = torch.tensor([[3, 4, 51, 54, 5, 0], [7, 52, 55, 6, 8, 1]])
    labels = torch.tensor([[-100, -100, 51, 54, -100, -100], [-100, -100, -100, -100, 8, 1]])
    loss, count = network({"input_ids": tokens, "labels": labels, "weight": torch.tensor(0.5)})
    expected = 0.0
    for row, length in ((0, 5), (1, 6)):  # one unpadded sequence at a time
        states = network.lm.model(inputs_embeds=network.embed(tokens[row : row + 1, :length])).last_hidden_state[0]
        for place in range(1, length):
            label = int(labels[row, place])
            if label >= 50:
                expected -= network.classifier(states[place - 1]).log_softmax(-1)[label - 50].item()
            elif label >= 0:
                expected -= network.lm.lm_head(states[place - 1]).log_softmax(-1)[label].item()
    assert (loss.item(), int(count)) == (pytest.approx(0.5 * expected, rel=1e-5), 4)


def test_a_softmax_over_the_level_is_the_cross_entropy_among_its_codes(inputs):
    network = network_of(inputs, replace(CONFIG, softmax="level"))
    states = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    logits = network.classifier(states)
    expected = -logits[0, :3].log_softmax(-1)[2] - logits[1, 3:].log_softmax(-1)[1]
    torch.testing.assert_close(network.code_loss(states, torch.tensor([2, 4])), expected)


def test_code_tables_are_apart_from_words_and_from_each_other(inputs):
    network = network_of(inputs)
    assert network.codes.weight.shape == network.classifier.weight.shape == (7, 16)
    assert network.classifier.bias is None
    assert len({table.data_ptr() for table in (network.codes.weight, network.classifier.weight,
                                               network.lm.get_input_embeddings().weight)}) == 3


def test_with_adapters_the_words_are_frozen_and_adapters_and_code_tables_learn(inputs):
    network = network_of(inputs)
    add_lora(network.lm, Lora(rank=2, dropout=0.0))
    loss, _ = network({"input_ids": torch.tensor([[3, 51, 54]]), "labels": torch.tensor([[-100, 51, 54]]),
                       "weight": torch.tensor(1.0)})
    loss.backward()
    learning = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {"codes.weight", "classifier.weight"} <= learning
    assert all("lora_" in name for name in learning - {"codes.weight", "classifier.weight"}) and len(learning) > 2
    assert not network.lm.get_input_embeddings().weight.requires_grad


def test_a_batch_without_rows_reaches_all_trainable_weights_and_counts_nothing(inputs):
    network = network_of(inputs)
    nothing = torch.zeros(0, 0, dtype=torch.int64)
    loss, count = network({"input_ids": nothing, "labels": nothing, "weight": torch.tensor(1.0)})
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)
    assert all(weight.grad is not None and not weight.grad.any() for weight in network.parameters())


def test_it_learns_what_follows_what(model, inputs, accelerator):
    lists = ranked(model, inputs, accelerator).rankings[0].items
    assert np.mean([row[0] == target[0] for row, target in zip(lists, inputs.split.test.targets, strict=True)]) > 0.95
    assert [row["epoch"] for row in model.training] == list(range(1, 23))


def test_ndcg_is_never_above_recall_and_both_rise_with_k(model, inputs, accelerator):
    lists = ranked(model, inputs, accelerator).rankings[0].items
    measured = ranking_metrics(lists, inputs.split.test.targets, (1, 3, 5, 9))
    for smaller, larger in ((1, 3), (3, 5), (5, 9)):
        assert (measured[f"ndcg@{smaller}"] <= measured[f"ndcg@{larger}"]).all()
        assert (measured[f"recall@{smaller}"] <= measured[f"recall@{larger}"]).all()
    assert all((measured[f"ndcg@{k}"] <= measured[f"recall@{k}"]).all() for k in (1, 3, 5, 9))


def exhaustive_scores(ranker, inputs, row):
    """Log-probability of each item's codes, and end where there is one, by the LM's own forward pass, item by item."""
    instructions, network = ranker.instructions, ranker.network
    prompt = instructions.prompts(inputs.examples["test"].histories.take(np.array([row])))[0].tolist()
    scores = []
    for item in range(NUM_ITEMS):
        said = instructions.pieces[instructions.first_item + item].tolist()
        with torch.no_grad():
            embedded = network.embed(torch.tensor([[*prompt, *said]]))
            states = network.lm.model(inputs_embeds=embedded).last_hidden_state[0, len(prompt) - 1 : -1]
        log_probs = network.classifier(states).log_softmax(-1)
        scores.append(sum(log_probs[place, token - network.first_code].item() for place, token in enumerate(said)))
    return np.array(scores)


@pytest.mark.parametrize(("which", "kind"), [("model", "beam"), ("varying_model", "beam"),
                                             ("varying_model", "soft_beam")])
def test_a_wide_enough_beam_ranks_all_items_by_their_exact_log_probability(which, kind, inputs, varying, accelerator,
                                                                           request):
    model, given = request.getfixturevalue(which), inputs if which == "model" else varying
    decode = replace(DECODE, kind=kind, beam_size=NUM_ITEMS if kind == "beam" else 60)
    ranker = load_ranker(model, given, decode, accelerator=accelerator, seed=0)
    ranking = ranker.rank(given.examples["test"], given.split.test).rankings[0]
    for row in (0, 17, 59):
        scores = exhaustive_scores(ranker, given, row)
        start, stop = ranking.items.offsets[row : row + 2]
        assert ranking.items[row].tolist() == np.argsort(-scores).tolist()
        np.testing.assert_allclose(ranking.scores[start:stop], np.sort(scores)[::-1], rtol=1e-4, atol=1e-4)


def test_identifiers_of_several_lengths_are_learnt_and_all_reached(varying_model, varying, accelerator):
    result = ranked(varying_model, varying, accelerator)
    lists = result.rankings[0].items
    assert all(sorted(row) == list(range(NUM_ITEMS)) for row in lists) and result.invalid_share == 0
    assert np.mean([row[0] == target[0] for row, target in zip(lists, varying.split.test.targets, strict=True)]) > 0.95


def test_a_soft_beam_may_yield_what_is_no_item(model, inputs, accelerator):
    result = ranked(model, inputs, accelerator, replace(DECODE, kind="soft_beam", beam_size=12))
    assert result.invalid_share == pytest.approx(3 / 12)
    assert all(len(row) == NUM_ITEMS for row in result.rankings[0].items)


def test_candidate_sets_and_history_are_kept_to(model, inputs, accelerator):
    result = ranked(model, inputs, accelerator, replace(DECODE, candidate_sets=True, filter_history=True))
    assert [set(ranking.items.values) for ranking in result.rankings] == [set(range(9)), set(range(6)), {6, 7, 8}]
    for row, history in zip(result.rankings[0].items, inputs.split.test.histories, strict=True):
        assert sorted([*row, *history]) == list(range(NUM_ITEMS))


def test_the_result_does_not_depend_on_the_size_of_batches(model, inputs, accelerator):
    one, two = (ranked(model, inputs, accelerator, replace(DECODE, batch_size=size)).rankings[0] for size in (1, 60))
    assert np.array_equal(one.items.values, two.items.values)
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)


def test_equal_seeds_give_equal_bits_also_after_a_kill_in_the_second_phase(inputs, accelerator, train_through_a_kill):
    config = replace(CONFIG, joint_epochs=2, next_epochs=2)
    training = replace(TRAINING, validate_every=1)
    calls = train_through_a_kill(lambda folder: trained(inputs, config, accelerator, folder, training),
                                 instruction_lm, "_validate", at=4)
    assert len(calls) == 5  # the epochs before the kill are not trained again


def test_the_second_phase_starts_from_the_best_of_the_first_and_sees_no_alignment(inputs, accelerator, tmp_path,
                                                                                  monkeypatch):
    real, starts, ends, tasks = instruction_lm.fit, [], [], []

    def watched(network, *, batches, **given):
        starts.append({name: value.clone() for name, value in network.state_dict().items()})
        tasks.append({inputs.examples["train"].tasks[row] for rows in batches(1) for row in rows})
        rows = real(network, batches=batches, **given)
        ends.append({name: value.clone() for name, value in network.state_dict().items()})
        return rows

    monkeypatch.setattr(instruction_lm, "fit", watched)
    trained(inputs, replace(CONFIG, joint_epochs=2, next_epochs=1), accelerator, tmp_path)
    assert tasks == [{"next_item", "text_to_item"}, {"next_item"}]
    assert all(torch.equal(value, ends[0][name]) for name, value in starts[1].items())
    assert any(not torch.equal(value, ends[0][name]) for name, value in ends[1].items())


def test_tasks_with_texts_have_the_weight_of_the_options_and_the_next_item_one(inputs, accelerator, tmp_path,
                                                                               monkeypatch):
    tasks, weights = inputs.examples["train"].tasks, []

    def watched(network, *, batches, collate, **given):
        weights.append({(tasks[rows[0]], collate(rows)["weight"].item()) for rows in batches(1)})
        return [{"epoch": 1, "valid_ndcg@10": 0.0}]

    monkeypatch.setattr(instruction_lm, "fit", watched)
    trained(inputs, replace(CONFIG, alignment_weight=0.25), accelerator, tmp_path)
    assert weights == [{("next_item", 1.0), ("text_to_item", 0.25)}, {("next_item", 1.0)}]


@pytest.mark.parametrize("loss_on", ["all", "target"])
def test_codes_of_history_items_are_to_be_said_where_the_loss_is_on_all(inputs, accelerator, tmp_path, monkeypatch,
                                                                        loss_on):
    examples, counts = inputs.examples["train"], []

    def watched(network, *, batches, collate, **given):
        counts.append({row: int((collate(np.array([row]))["labels"] >= 0).sum()) for rows in batches(1) for row in rows})
        return [{"epoch": 1, "valid_ndcg@10": 0.0}]

    monkeypatch.setattr(instruction_lm, "fit", watched)
    trained(inputs, replace(CONFIG, loss_on=loss_on), accelerator, tmp_path)
    asked = [row for row, task in enumerate(examples.tasks) if task == "next_item"]
    said = {row: 2 * (1 + (len(examples.histories[row]) if loss_on == "all" else 0)) for row in asked}  # 2 codes an item
    assert len(said) == 60 and len(counts[0]) > 60
    assert {row: counts[0][row] for row in asked} == counts[1] == said


def test_a_second_phase_that_is_no_better_is_undone(inputs, accelerator, tmp_path, monkeypatch):
    real, ends = instruction_lm.fit, []

    def spoilt(network, **given):
        rows = real(network, **given)
        if ends:
            torch.nn.init.zeros_(network.codes.weight)
            rows = [{**row, "valid_ndcg@10": -1.0} for row in rows]
        ends.append(network.codes.weight.detach().clone())
        return rows

    monkeypatch.setattr(instruction_lm, "fit", spoilt)
    model = trained(inputs, replace(CONFIG, joint_epochs=1, next_epochs=1), accelerator, tmp_path)
    assert np.array_equal(model.tensors["codes"], ends[0].numpy()) and ends[0].any()


def test_texts_are_learnt_to_be_said_with_adapters_from_the_embedder_that_are_merged(inputs, accelerator, tmp_path):
    torch.manual_seed(3)
    tokenizer = train_byte_tokenizer(["item 1 2 3"], 300)
    embedder, embedder_json = save_backbone(build_causal_lm(BACKBONE, tokenizer.size, 0, 1), tokenizer, BACKBONE, FULL)
    config = replace(CONFIG, start="merged", lora=Lora(rank=2, dropout=0.0), joint_epochs=1, next_epochs=0,
                     tasks=("next_item", "text_to_item", "item_to_text"))
    model = trained(replace(inputs, embedder=embedder, embedder_json=embedder_json), config, accelerator, tmp_path)
    changed = {name for name, value in embedder.items() if not np.array_equal(value, model.tensors[name])}
    assert changed == {f"backbone.model.decoder.layers.0.self_attn.{part}_proj.weight" for part in "qv"}
    lists = ranked(model, inputs, accelerator, part="valid").rankings[0].items
    ndcg = ranking_metrics(lists, inputs.split.valid.targets, (10,))["ndcg@10"].mean()
    assert model.training[-1]["valid_ndcg@10"] == pytest.approx(ndcg)  # as it was before adapters were merged and saved


def test_test_targets_are_never_read_in_training(inputs, model, accelerator, tmp_path):
    hidden = replace(inputs, split=replace(inputs.split, test=None), examples={name: inputs.examples[name]
                                                                              for name in ("train", "valid")})
    config = replace(CONFIG, joint_epochs=1, next_epochs=1)
    assert len(trained(hidden, config, accelerator, tmp_path).training) == 2


@pytest.mark.parametrize(("changes", "message"), [
    ({"tasks": ("text_to_item",)}, "next_item, which ranking asks for"),
    ({"joint_epochs": 0, "next_epochs": 0}, "both 0"),
    ({"alignment_weight": 0.0}, "alignment_weight is 0.0; expected more than 0 .*ablation=no_alignment"),
    ({"max_tokens": 500}, "max_tokens is 500, but the language model has 128 positions"),
    ({"start": "merged", "backbone": Backbone(pretrained="some/model")}, "set tokenizer.source=dense, or start=fresh"),
])
def test_impossible_options_are_refused(changes, message, inputs, accelerator, tmp_path):
    with pytest.raises(ValueError, match=message):
        trained(inputs, replace(CONFIG, **changes), accelerator, tmp_path)


@pytest.mark.parametrize(("max_tokens", "warned"), [(120, False), (16, True)])
def test_histories_that_have_no_room_are_named(max_tokens, warned, inputs, accelerator, tmp_path, caplog):
    config = replace(CONFIG, joint_epochs=1, next_epochs=0, tasks=("next_item",), max_tokens=max_tokens)
    trained(inputs, config, accelerator, tmp_path)
    assert ("have no room in recommender.instruction_lm.max_tokens" in caplog.text) == warned


def test_alignment_without_texts_is_refused(inputs, accelerator, tmp_path):
    with pytest.raises(ValueError, match="names text_to_item, of which there is no example; do items have texts"):
        trained(replace(inputs, catalogue=None), CONFIG, accelerator, tmp_path)


def test_a_softmax_over_the_level_refuses_identifiers_of_several_lengths(varying, accelerator, tmp_path):
    with pytest.raises(ValueError, match="softmax=level needs identifiers of one length"):
        trained(varying, replace(CONFIG, softmax="level"), accelerator, tmp_path)


def test_codes_of_other_sizes_than_trained_with_are_refused(model, varying, accelerator):
    with pytest.raises(ValueError, match="10 code tokens, but the model was trained with 7; re-run finetune"):
        load_ranker(model, varying, DECODE, accelerator=accelerator, seed=0)
