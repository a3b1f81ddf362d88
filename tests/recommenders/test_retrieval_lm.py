"""Acceptance of TokenRec's recommender on a toy catalogue where what was taken decides what comes next.

What of the checklist is tested elsewhere: 1 to 6, 15 in tokenizers/test_mq.py, 11 in interactions/test_splitting.py,
13 in embeddings/test_lightgcn.py.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline_lib.artifacts import read_model, write_model
from pipeline_lib.backbones.t5 import build_t5
from pipeline_lib.backbones.text_tokenizer import train_word_tokenizer
from pipeline_lib.decoding.ranking import make_grounder
from pipeline_lib.params import DecodeParams, SequencesParams, TrainingParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders import prompted_batches, retrieval_lm
from pipeline_lib.recommenders.prompted_batches import (
    NegativeSampler, TrainingBatches, add_code_tokens, make_prompter, prompt_tokenizer,
)
from pipeline_lib.recommenders.retrieval_lm import (
    Config, RetrievalLM, cosine_margin_loss, in_batch_loss, load_ranker, train,
)
from pipeline_lib.records import Identifiers, RecommenderInputs
from pipeline_lib.seeding import seed_everything
from pipeline_lib.sequences.item_examples import build_examples
from pipeline_lib.sequences.prompts import DECODER_SENTENCE, USER_ONLY
from pipeline_lib.training.checkpoints import Checkpoints
from tests.recommenders.conftest import circular_walks, split_of

NUM_ITEMS, NUM_USERS, LEVELS = 24, 60, (6, 4)
COLD_ITEM, USER_WITHOUT = 5, 7
POOLINGS = ("decoder_flat", "decoder_first", "encoder_mean")
CONFIG = Config(layers=1, heads=2, head_size=8, width=16, feed_forward=32, dropout=0.0, max_items=3, max_tokens=60,
                decoder_tokens=4, projection_hidden=(32,), projection_dropout=0.0, loss="full_softmax")
TRAINING = TrainingParams(epochs=24, batch_size=32, learning_rate=0.01, patience=30, validate_every=8)
DECODE = DecodeParams("ground", top_k=NUM_ITEMS, batch_size=7, filter_history=False)


def make_inputs():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    codes = np.stack(np.divmod(generator.permutation(NUM_ITEMS), 4), axis=1).astype(np.int32)
    codes[COLD_ITEM] = -1
    users_valid, users_test = (np.stack([generator.integers(0, size, size=NUM_USERS) for size in LEVELS], axis=1)
                               .astype(np.int32) for _ in range(2))
    users_valid[USER_WITHOUT] = users_test[USER_WITHOUT] = -1
    identifiers = Identifiers(codes, LEVELS, user_codes={"valid": users_valid, "test": users_test})
    walks = circular_walks(generator.integers(0, NUM_ITEMS, size=NUM_USERS), NUM_ITEMS)
    split = split_of(walks, np.arange(NUM_ITEMS) != COLD_ITEM)
    examples, vocabulary = build_examples(split, identifiers, SequencesParams(10))
    return RecommenderInputs(examples, vocabulary, identifiers, split, vectors, vectors)


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


@pytest.fixture(scope="module")
def tokenizer(inputs):
    return add_code_tokens(prompt_tokenizer(), inputs.identifiers)


@pytest.fixture(scope="module")
def prompter(inputs, tokenizer):
    return make_prompter(tokenizer, inputs.identifiers, CONFIG.max_items, CONFIG.max_tokens)


@pytest.fixture
def batches(inputs, prompter):
    return TrainingBatches(prompter, inputs.examples["train"], inputs.split, user_only_share=0.2, with_negatives=True,
                           batch_size=32, bucket_batches=5, seed=0)


def build(inputs, tokenizer, config):
    seed_everything(0)
    t5 = retrieval_lm._build_t5(config, tokenizer, first_code=0)
    ids = retrieval_lm._decoder_ids(tokenizer, config.decoder_tokens, 0)
    return RetrievalLM(t5, ids, torch.from_numpy(inputs.vectors), config)


def run(inputs, accelerator, folder, config=CONFIG, training=TRAINING):
    return train(inputs, config, training, checkpoints=Checkpoints(folder / "run"), accelerator=accelerator, seed=0)


@pytest.fixture(scope="module")
def trained(inputs, accelerator, tmp_path_factory):
    return run(inputs, accelerator, tmp_path_factory.mktemp("retrieval"))


@pytest.fixture
def ranker(trained, inputs, accelerator):
    return load_ranker(trained, inputs, DECODE, accelerator=accelerator, seed=0)


def rank(ranker, inputs, part="test"):
    return ranker.rank(inputs.examples[part], getattr(inputs.split, part), part).rankings[0]


def recall(ranking, cases, k=5):
    return np.mean([target[0] in items[:k] for items, target in zip(ranking.items, cases.targets, strict=True)])


def states(ranker, inputs, rows, part="test"):
    with torch.inference_mode():
        return ranker.network.eval() and ranker.states(inputs.examples[part], rows, part)


# --- tokens (7), histories (12), negatives (9) ----------------------------------------------------------------------


def test_codes_of_items_and_users_are_2_k_l_tokens_of_their_own(tokenizer, inputs):
    names = [f"<{entity}-{level}-{code}>" for entity in ("item", "user") for level, size in enumerate(LEVELS)
             for code in range(size)]
    plain = prompt_tokenizer()
    assert tokenizer.size - plain.size == len(names) == 2 * sum(LEVELS)
    assert [tokenizer.encode(name) for name in names] == [[plain.size + place] for place in range(len(names))]
    assert not set(names) & set(plain.backend.get_vocab())


def test_a_prompt_has_the_codes_of_its_user_and_items(prompter, tokenizer, inputs):
    history = np.array([2, COLD_ITEM, 9, 1, 4])
    prompt = prompter.prompts(np.array([3]), "test", Ragged.from_rows([history]), np.array([0]))[0].tolist()
    named = "".join(f"<item-0-{first}><item-1-{second}>" for first, second in inputs.identifiers.codes[[9, 1, 4]])
    user = "".join(f"<user-{level}-{code}>" for level, code in enumerate(inputs.identifiers.user_codes["test"][3]))
    sentence = f"The user {user} has bought the items {named} so far. Which item comes next?"
    assert prompt == [*tokenizer.encode(sentence), tokenizer.id_of("</s>")]


def test_users_and_histories_without_codes_are_left_out(prompter, tokenizer):
    history = Ragged.from_rows([[COLD_ITEM], [1], [1], []])
    users = np.array([3, USER_WITHOUT, NUM_USERS + 5, USER_WITHOUT])
    prompts = prompter.prompts(users, "valid", history, np.zeros(4, dtype=int))
    user_tokens, item_tokens = ([tokenizer.id_of(f"<{entity}-0-0>") + place for place in range(sum(LEVELS))]
                                for entity in ("user", "item"))
    assert [np.isin(row, user_tokens).sum() for row in prompts] == [2, 0, 0, 0]
    assert [np.isin(row, item_tokens).sum() for row in prompts] == [0, 2, 2, 0]
    assert prompts[3].tolist() == [*tokenizer.encode("What will the user like?"), tokenizer.id_of("</s>")]


def test_prompts_keep_to_max_tokens_with_whole_items(inputs, tokenizer):
    prompter = make_prompter(tokenizer, inputs.identifiers, max_items=50, max_tokens=28)
    templates = np.arange(USER_ONLY)
    prompts = prompter.prompts(templates, "test", Ragged.from_rows([np.arange(10, 24)] * USER_ONLY), templates)
    items = np.arange(sum(LEVELS)) + tokenizer.id_of("<item-0-0>")
    counts = np.array([np.isin(row, items).sum() for row in prompts])
    assert (prompts.lengths <= 28).all()
    assert (prompts.lengths > 28 - 2).all()  # one more item would not have fitted
    assert (counts % 2 == 0).all()


def test_each_epoch_orders_histories_anew_and_targets_stay_out(batches, inputs, tokenizer):
    examples, rows = inputs.examples["train"], np.arange(len(inputs.examples["train"]))
    batches.user_only_share = 0.0
    first, seen = tokenizer.id_of("<item-0-0>"), []
    item_of = {tuple(codes): item for item, codes in enumerate(inputs.identifiers.codes.tolist())}
    for epoch in (1, 2):
        batches.begin(epoch)
        prompts = batches.collate(rows)["input_ids"].numpy()
        found = [row[(row >= first) & (row < first + sum(LEVELS))].reshape(-1, 2) - [first, first + LEVELS[0]]
                 for row in prompts]
        seen.append([[item_of[tuple(codes)] for codes in row.tolist()] for row in found])
        for row in rows:
            known = [item for item in examples.histories[row] if item != COLD_ITEM][-CONFIG.max_items:]
            assert sorted(seen[-1][row]) == sorted(known)
            assert examples.targets[row][0] not in seen[-1][row]
    assert seen[0] != seen[1]


def test_an_epoch_is_drawn_alike_again_and_in_parts(batches, inputs, prompter):
    rows = batches.begin(3)[0]
    whole = batches.collate(rows)
    again = TrainingBatches(prompter, inputs.examples["train"], inputs.split, user_only_share=0.2, with_negatives=True,
                            batch_size=32, bucket_batches=5, seed=0)
    again.begin(1)
    assert np.array_equal(again.begin(3)[0], rows)
    part = again.collate(rows[1::2])
    width = part["input_ids"].shape[1]
    assert torch.equal(whole["input_ids"][1::2, :width], part["input_ids"])
    assert torch.equal(whole["negatives"][1::2], part["negatives"])


def test_training_prompts_come_from_ten_templates_and_the_user_only_one(batches):
    batches.begin(1)
    assert set(batches.chosen) == {*range(10), USER_ONLY}
    assert abs((batches.chosen == USER_ONLY).mean() - 0.2) < 0.1


def test_training_prompts_have_the_codes_that_users_had_before_validation(batches, inputs, tokenizer):
    rows, first = np.concatenate(batches.begin(1)), tokenizer.id_of("<user-0-0>")
    for row, prompt in zip(rows, batches.collate(rows)["input_ids"].numpy(), strict=True):
        owned = inputs.identifiers.user_codes["valid"][inputs.examples["train"].users[row]]
        wanted = [] if owned[0] < 0 else (owned + [first, first + LEVELS[0]]).tolist()
        assert prompt[(prompt >= first) & (prompt < first + sum(LEVELS))].tolist() == wanted


def test_negatives_are_uniform_over_items_that_the_user_never_took(inputs):
    examples = inputs.examples["train"].take(np.array([0, 40]))
    sampler, generator = NegativeSampler(inputs.split, examples), np.random.default_rng(0)
    drawn = np.stack([sampler.draw(generator) for _ in range(6000)])
    for place in range(2):
        free = sorted(set(range(NUM_ITEMS)) - set(inputs.split.train[examples.users[place]].tolist()))
        items, counts = np.unique(drawn[:, place], return_counts=True)
        assert items.tolist() == free
        assert np.abs(counts - 6000 / len(free)).max() < 5 * math.sqrt(6000 / len(free))


def test_a_user_with_all_items_leaves_no_negative(inputs):
    split = replace(inputs.split, train_users=np.array([0]), train=Ragged.from_rows([np.arange(NUM_ITEMS)]))
    with pytest.raises(ValueError, match="user 0 has all 24 items"):
        NegativeSampler(split, inputs.examples["train"].take(np.array([0])))


# --- losses (9) -----------------------------------------------------------------------------------------------------


def test_cosine_margin_loss_worked_by_hand():
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert cosine_margin_loss(3 * east, east, north, margin=0.0).item() == 0.0
    tilted = torch.tensor([[0.1, math.sqrt(0.99)]])
    assert cosine_margin_loss(east, 2 * east, tilted, margin=0.2).item() == pytest.approx(0.0, abs=1e-6)
    assert cosine_margin_loss(east, 2 * east, tilted, margin=0.0).item() == pytest.approx(0.1)
    assert cosine_margin_loss(east, north, -east, margin=0.0).item() == pytest.approx(1.0)


def test_the_loss_of_a_batch_has_its_targets_as_positives_and_the_margin_of_the_options(inputs, tokenizer, batches):
    network = build(inputs, tokenizer, replace(CONFIG, loss="cosine_margin", margin=0.2)).eval()
    batch, v = batches.collate(batches.begin(1)[0]), torch.from_numpy(inputs.vectors)
    expected = cosine_margin_loss(network.states(batch), v[batch["targets"]], v[batch["negatives"]], 0.2)
    assert network(batch)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_in_batch_loss_leaves_out_rows_with_the_same_item():
    z, items = torch.eye(3)[:, :2] + 0.1, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    wanted = 0.0
    for row, others in ((0, [0, 1]), (1, [0, 1, 2]), (2, [1, 2])):
        scores = items[others] @ z[row]
        wanted += (scores.logsumexp(0) - items[row] @ z[row]).item()
    assert in_batch_loss(z, items, torch.tensor([4, 8, 4])).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("loss", ["cosine_margin", "in_batch", "full_softmax"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_all_that_trains_has_gradients_and_item_vectors_have_none(inputs, tokenizer, batches, loss, pooling):
    network = build(inputs, tokenizer, replace(CONFIG, loss=loss, pooling=pooling)).train()
    batch = batches.collate(batches.begin(1)[0])
    loss_sum, count = network(batch)
    assert count == len(batch["targets"]) * (2 if loss == "cosine_margin" else 1)
    loss_sum.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert name.split(".")[0] in ("encoder", "decoder", "projection"), name  # neither codebooks nor items
    table = network.encoder.embed_tokens.weight.grad
    assert table[batch["input_ids"][batch["attention_mask"] == 1].unique()].abs().sum(dim=1).min() > 0
    assert not network.items.requires_grad
    assert "items" not in network.state_dict()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_does_not_change_a_state(inputs, tokenizer, prompter, pooling):
    network = build(inputs, tokenizer, replace(CONFIG, pooling=pooling)).eval()
    prompts = prompter.prompts(np.arange(6), "test", inputs.split.test.histories.take(np.arange(6)), np.arange(6))
    with torch.inference_mode():
        together = network.states(prompter.tensors(prompts))
        alone = torch.cat([network.states(prompter.tensors(prompts.take(np.array([row])))) for row in range(6)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("length", [4, 20])
def test_all_decoder_states_of_the_sentence_are_projected_one_behind_the_other(inputs, tokenizer, prompter, length):
    network = build(inputs, tokenizer, replace(CONFIG, pooling="decoder_flat", decoder_tokens=length)).eval()
    batch = prompter.tensors(prompter.prompts(np.arange(3), "test", inputs.split.test.histories.take(np.arange(3)),
                                              np.zeros(3, dtype=int)))
    read = [0, *tokenizer.encode(DECODER_SENTENCE), tokenizer.id_of("</s>"), *[tokenizer.id_of("<pad>")] * length]
    with torch.inference_mode():
        encoded = network.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        decoded = network.decoder(torch.tensor([read[:length]] * 3), encoder_hidden_states=encoded,
                                  encoder_attention_mask=batch["attention_mask"]).last_hidden_state
        states = [decoded[:, place] for place in range(length)]
        torch.testing.assert_close(network.projection(torch.cat(states, dim=1)), network.states(batch))


def test_the_projection_is_three_linear_layers_with_relu_between_them(inputs, tokenizer):
    network = build(inputs, tokenizer, replace(CONFIG, projection_hidden=(32, 8))).eval()
    first, a, second, b, third, c = network.projection.parameters()
    pooled = torch.randn(5, first.shape[1], generator=torch.Generator().manual_seed(0))
    hidden = (pooled @ first.T + a).clamp(min=0)
    expected = (hidden @ second.T + b).clamp(min=0) @ third.T + c
    torch.testing.assert_close(network.projection(pooled), expected)


def test_the_first_decoder_state_needs_no_others(inputs, tokenizer, prompter):
    first = build(inputs, tokenizer, replace(CONFIG, pooling="decoder_first")).eval()
    batch = prompter.tensors(prompter.prompts(np.arange(3), "test", inputs.split.test.histories.take(np.arange(3)),
                                              np.zeros(3, dtype=int)))
    ids = retrieval_lm._decoder_ids(tokenizer, CONFIG.decoder_tokens, 0)
    with torch.inference_mode():
        encoded = first.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        decoded = first.decoder(ids.expand(3, -1), encoder_hidden_states=encoded,
                                encoder_attention_mask=batch["attention_mask"]).last_hidden_state
        torch.testing.assert_close(first.projection(decoded[:, 0]), first.states(batch))


def test_a_process_may_get_no_row_of_a_batch(inputs, tokenizer, batches):
    batches.begin(1)
    network = build(inputs, tokenizer, replace(CONFIG, loss="cosine_margin"))
    loss, count = network(batches.collate(np.empty(0, dtype=int)))
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)
    assert all(parameter.grad.abs().sum() == 0 for parameter in network.parameters())


# --- ranking (10, 14) -----------------------------------------------------------------------------------------------


def test_it_learns_what_comes_next(trained, ranker, inputs):
    figures = [row for row in trained.training if "valid_recall@10" in row]
    assert trained.training[-1]["train_loss"] < trained.training[0]["train_loss"] / 2
    assert figures[-1].keys() >= {"valid_ndcg@10", "valid_recall@10"}
    assert recall(rank(ranker, inputs), inputs.split.test) > 0.8  # chance: 5 of 24


def test_it_learns_by_cosine_and_margin_too(inputs, accelerator, tmp_path):
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, loss="cosine_margin", margin=0.2),
                replace(TRAINING, validate_every=1))
    assert model.training[-1]["valid_recall@10"] > model.training[0]["valid_recall@10"] + 0.2
    ranker = load_ranker(model, inputs, DECODE, accelerator=accelerator, seed=0)
    assert recall(rank(ranker, inputs), inputs.split.test) > 0.5  # chance: 5 of 24


def test_validation_ranks_users_by_the_codes_that_they_had_before_it(inputs, accelerator, tmp_path, monkeypatch):
    real, parts = retrieval_lm.Ranker.states, []
    monkeypatch.setattr(retrieval_lm.Ranker, "states", lambda *given: parts.append(given[-1]) or real(*given))
    run(inputs, accelerator, tmp_path, CONFIG, replace(TRAINING, epochs=1, validate_every=1))
    assert set(parts) == {"valid"}


@pytest.mark.parametrize("loss", ["full_softmax", "cosine_margin"])
def test_test_targets_and_codes_of_users_in_testing_change_nothing(inputs, accelerator, tmp_path, loss):
    users = inputs.identifiers.user_codes
    test = replace(inputs.split.test, targets=inputs.split.test.histories.last(1))
    hidden = replace(inputs, split=replace(inputs.split, test=test),
                     examples={name: inputs.examples[name] for name in ("train", "valid")},
                     identifiers=replace(inputs.identifiers, user_codes=users | {"test": users["test"][::-1].copy()}))
    one, two = (run(part, accelerator, tmp_path / name, replace(CONFIG, loss=loss), replace(TRAINING, epochs=1))
                for name, part in (("a", inputs), ("b", hidden)))
    assert one.training == two.training
    assert all(np.array_equal(value, two.tensors[name]) for name, value in one.tensors.items())


def test_the_same_seed_gives_the_same_model(inputs, accelerator, tmp_path):
    training = replace(TRAINING, epochs=2, validate_every=1)
    one, two = (run(inputs, accelerator, tmp_path / name, replace(CONFIG, loss="cosine_margin", dropout=0.1), training)
                for name in ("one", "two"))
    assert one.training == two.training
    assert all(np.array_equal(value, two.tensors[name]) for name, value in one.tensors.items())


def test_a_killed_run_goes_on_to_the_same_end(inputs, accelerator, train_through_a_kill):
    config = replace(CONFIG, loss="cosine_margin", dropout=0.1)
    training = replace(TRAINING, epochs=4, validate_every=1)
    train_through_a_kill(lambda folder: run(inputs, accelerator, folder, config, training), TrainingBatches, "begin",
                         at=3)


def test_a_model_is_read_back_from_tensors_and_json_alone(trained, ranker, inputs, accelerator, tmp_path, monkeypatch):
    write_model(tmp_path / "model", trained)
    monkeypatch.setattr(retrieval_lm, "load_text_tokenizer", None)
    monkeypatch.setattr(retrieval_lm, "load_t5", None)
    monkeypatch.setattr(prompted_batches, "prompt_tokenizer", None)
    again = load_ranker(read_model(tmp_path / "model"), inputs, DECODE, accelerator=accelerator, seed=0)
    one, two = rank(ranker, inputs), rank(again, inputs)
    assert np.array_equal(one.items.values, two.items.values)
    assert np.array_equal(one.scores, two.scores)
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"model.safetensors", "config.json", "training.csv"}


def test_ranks_are_by_cosine_so_that_lengths_of_vectors_do_not_matter(trained, ranker, inputs, accelerator):
    factors = np.random.default_rng(0).uniform(0.5, 2.0, size=(NUM_ITEMS, 1)).astype(np.float32)
    scaled = replace(inputs, vectors=inputs.vectors * factors)
    other = load_ranker(trained, scaled, DECODE, accelerator=accelerator, seed=0)
    one, two = rank(ranker, inputs), rank(other, inputs)
    assert np.array_equal(one.items.values, two.items.values)
    np.testing.assert_allclose(one.scores, two.scores, rtol=1e-4, atol=1e-5)
    z = states(ranker, inputs, np.array([4]))
    cosines = F.cosine_similarity(z, torch.from_numpy(inputs.vectors)).numpy()
    assert one.items[4].tolist() == np.argsort(-cosines).tolist()


def test_ranks_are_by_dot_product_where_asked(trained, inputs, accelerator):
    model = replace(trained, config=trained.config | {"similarity": "dot"})
    stretched = replace(inputs, vectors=inputs.vectors * np.linspace(0.5, 4.0, NUM_ITEMS, dtype=np.float32)[:, None])
    ranker = load_ranker(model, stretched, DECODE, accelerator=accelerator, seed=0)
    products = states(ranker, stretched, np.array([4])) @ torch.from_numpy(stretched.vectors).T
    assert rank(ranker, stretched).items[4].tolist() == np.argsort(-products[0].numpy()).tolist()


@pytest.mark.parametrize("loss", ["in_batch", "full_softmax"])
def test_by_dot_product_the_loss_knows_the_lengths_of_vectors_but_not_their_unit(inputs, tokenizer, batches, loss):
    config = replace(CONFIG, loss=loss, similarity="dot")
    batch = batches.collate(next(iter(batches.begin(0))))
    lengths = np.linspace(0.5, 4.0, NUM_ITEMS, dtype=np.float32)[:, None]
    scaled = (replace(inputs, vectors=inputs.vectors * factor) for factor in (1.0, 7.0, lengths))
    plain, again, stretched = (build(made, tokenizer, config)(batch)[0].item() for made in scaled)
    assert again == pytest.approx(plain, rel=1e-4)
    assert abs(stretched - plain) > 1e-3 * plain


def test_items_of_the_history_are_left_out_only_where_asked(trained, ranker, inputs, accelerator):
    filtering = load_ranker(trained, inputs, replace(DECODE, filter_history=True), accelerator=accelerator, seed=0)
    for items, history in zip(rank(filtering, inputs).items, inputs.split.test.histories, strict=True):
        assert set(items.tolist()) == set(range(NUM_ITEMS)) - set(history.tolist())
    repeated = replace(inputs.split.test, targets=inputs.split.test.histories.last(1))
    ranking = ranker.rank(inputs.examples["test"], repeated).rankings[0]
    assert all(target[0] in items for items, target in zip(ranking.items, repeated.targets, strict=True))


def test_a_new_item_is_ranked_without_training(ranker, inputs):
    z = states(ranker, inputs, np.arange(3))
    vectors = np.concatenate([inputs.vectors, 7 * z[:1].numpy()])  # item 24 is what the first user looks for
    grounder = make_grounder(vectors, None, replace(DECODE, top_k=5), "cosine",
                             torch.device("cpu"), np.random.default_rng(0))
    items, scores = grounder.rank(z, "all", None)
    before = rank(ranker, inputs)
    assert items[0].tolist() == [NUM_ITEMS, *before.items[0][:4]]
    assert scores[0] == pytest.approx(1.0, abs=1e-5)


def test_the_part_says_which_codes_users_have(ranker, inputs):
    rows = np.array([3, USER_WITHOUT])
    histories = inputs.examples["test"]
    one, two = (ranker.prompter.prompts(histories.users[rows], part, histories.histories.take(rows), np.zeros(2, int))
                for part in ("valid", "test"))
    assert not np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    same = ranker.rank(inputs.examples["test"], inputs.split.test, "valid").rankings[0]
    assert not np.array_equal(same.scores, rank(ranker, inputs).scores)


def test_unseen_and_user_only_prompts_rank_as_well(trained, inputs, accelerator):
    found = {}
    for prompt in ("seen", "unseen", "user_only"):
        decode = replace(DECODE, prompt=prompt)
        found[prompt] = rank(load_ranker(trained, inputs, decode, accelerator=accelerator, seed=0), inputs)
    assert recall(found["unseen"], inputs.split.test) > 0.5
    assert not np.array_equal(found["unseen"].scores, found["seen"].scores)
    swapped = replace(inputs.examples["test"], histories=Ragged.from_rows([[0]] * NUM_USERS))
    blind = load_ranker(trained, inputs, replace(DECODE, prompt="user_only"), accelerator=accelerator, seed=0)
    np.testing.assert_allclose(blind.rank(swapped, inputs.split.test).rankings[0].scores, found["user_only"].scores,
                               rtol=1e-4, atol=1e-5)


def test_identifiers_without_codes_of_users_work(inputs, accelerator, tmp_path):
    plain = replace(inputs, identifiers=Identifiers(inputs.identifiers.codes, LEVELS))
    model = run(plain, accelerator, tmp_path, training=replace(TRAINING, epochs=1))
    ranking = rank(load_ranker(model, plain, DECODE, accelerator=accelerator, seed=0), plain)
    assert (ranking.items.lengths == NUM_ITEMS).all()


def test_a_pretrained_folder_is_trained_on_and_then_needed_no_more(inputs, accelerator, tmp_path):
    from transformers import PreTrainedTokenizerFast

    words = train_word_tokenizer(["what will the user like next ?"])
    PreTrainedTokenizerFast(tokenizer_object=words.backend, pad_token="<pad>", eos_token="</s>").save_pretrained(
        tmp_path / "t5")
    build_t5(words.size + 3, 16, 1, 2, 8, 32, 0.0).save_pretrained(tmp_path / "t5")
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, pretrained=str(tmp_path / "t5")),
                replace(TRAINING, epochs=2, validate_every=1))
    (tmp_path / "t5").rename(tmp_path / "gone")
    ranking = rank(load_ranker(model, inputs, DECODE, accelerator=accelerator, seed=0), inputs)
    assert (ranking.items.lengths == NUM_ITEMS).all()


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "message"), [
    ({"loss": "cosine_margin", "similarity": "dot"}, "loss cosine_margin with similarity dot"),
    ({"max_tokens": 12}, "max_tokens is 12, but the longest template")])
def test_impossible_options_are_refused(inputs, accelerator, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(inputs, accelerator, tmp_path, replace(CONFIG, **change))


def test_an_unknown_prompt_is_refused_before_ranking(trained, inputs, accelerator):
    with pytest.raises(ValueError, match="decode.prompt is other; known: seen"):
        load_ranker(trained, inputs, replace(DECODE, prompt="other"), accelerator=accelerator, seed=0)


def test_other_vectors_and_codes_than_trained_with_are_refused(trained, inputs, accelerator):
    with pytest.raises(ValueError, match="items have 3 dimensions, but the model was trained for 6"):
        load_ranker(trained, replace(inputs, vectors=inputs.vectors[:, :3]), DECODE, accelerator=accelerator, seed=0)
    for levels in ((6, 9), (5, 4)):
        identifiers = replace(inputs.identifiers, level_sizes=levels, user_codes={})
        with pytest.raises(ValueError, match="re-run finetune"):
            load_ranker(trained, replace(inputs, identifiers=identifiers), DECODE, accelerator=accelerator, seed=0)


def test_codes_of_users_beyond_the_codebooks_are_refused(inputs):
    users = {"valid": np.array([[5, 4]], dtype=np.int32)}
    with pytest.raises(ValueError, match="up to 5, do not fit the codebooks of items, 6, 4"):
        add_code_tokens(prompt_tokenizer(), replace(inputs.identifiers, user_codes=users))
