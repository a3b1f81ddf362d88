"""Acceptance of SETRec's recommender on a toy catalogue where what was taken decides what comes next.

What of the checklist is tested elsewhere: 1 to 6 in backbones/test_set_models.py and test_set_attention.py, 12 in
interactions/test_splitting.py, 13 in evaluation/test_ranking.py and test_groups.py.
"""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import Linear

from pipeline_lib.artifacts import read_model, write_model
from pipeline_lib.backbones.causal_lm import Backbone, build_causal_lm
from pipeline_lib.backbones.t5 import build_t5
from pipeline_lib.backbones.text_tokenizer import train_word_tokenizer
from pipeline_lib.params import DecodeParams, SequencesParams, TrainingParams
from pipeline_lib.params_file import compose_tree, params_from_tree
from pipeline_lib.quantizers.set_autoencoder import SetAutoencoder
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders import set_backbones, set_query
from pipeline_lib.recommenders.set_batches import TargetRows, packed_rows, single_rows
from pipeline_lib.recommenders.set_network import SetQueryNetwork, dimension_weights
from pipeline_lib.recommenders.set_query import Config, add_items, load_ranker, train
from pipeline_lib.recommenders.set_validation import BETAS, Held, answers_to, validate_at
from pipeline_lib.records import Identifiers, RecommenderInputs, TokenizerInputs
from pipeline_lib.seeding import seed_everything
from pipeline_lib.sequences.item_examples import build_examples
from pipeline_lib.tokenizers import set as set_tokenizer
from pipeline_lib.training.checkpoints import Checkpoints
from tests.conftest import ROOT
from tests.recommenders.conftest import split_of

NUM_ITEMS, NUM_USERS, WIDTH, COLD_ITEM = 24, 48, 16, 5
CONFIG = Config(layers=1, heads=2, head_size=8, width=WIDTH, feed_forward=32, dropout=0.0)
LM = replace(CONFIG, backbone="causal_lm", family="qwen2")
TRAINING = TrainingParams(epochs=10, batch_size=8, learning_rate=0.01, patience=30, validate_every=5)
SHORT = replace(TRAINING, epochs=2, validate_every=1)
DECODE = DecodeParams("ground", top_k=NUM_ITEMS, batch_size=7, filter_history=False)


def sets_of(vectors, cf_vectors, tokens=2):
    return set_tokenizer.tokenize_items(TokenizerInputs(vectors, cf_vectors, Ragged.from_rows([]), {}),
                                        set_tokenizer.Config(tokens, WIDTH, (12,)), collisions="none", seed=0)


def make_inputs():
    generator = np.random.default_rng(0)
    vectors, cf_vectors = (generator.normal(size=(NUM_ITEMS, size)).astype(np.float32) for size in (10, 6))
    starts = generator.integers(6, NUM_ITEMS, size=NUM_USERS)
    walks = [[6 + (start - 6 + step) % 18 for step in range(8)] for start in starts]  # items 0 to 5 are never taken
    split = split_of(walks, np.arange(NUM_ITEMS) > COLD_ITEM)
    identifiers = sets_of(vectors, cf_vectors)
    examples, vocabulary = build_examples(split, identifiers, SequencesParams(5))
    return RecommenderInputs(examples, vocabulary, identifiers, split, vectors, cf_vectors)


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


def build(inputs, config=CONFIG):
    seed_everything(0)
    return set_query._network(set_backbones.new_backbone(config)[0], config, inputs)


def run(inputs, accelerator, folder, config=CONFIG, training=TRAINING):
    return train(inputs, config, training, checkpoints=Checkpoints(folder / "run"), accelerator=accelerator, seed=0)


@pytest.fixture(scope="module")
def trained(inputs, accelerator, tmp_path_factory):
    return run(inputs, accelerator, tmp_path_factory.mktemp("sets"))


def rank(model, inputs, accelerator, decode=DECODE, part="test"):
    ranker = load_ranker(model, inputs, decode, accelerator=accelerator, seed=0)
    return ranker.rank(inputs.examples[part], getattr(inputs.split, part), part).rankings


def recall(ranking, cases, k=5):
    return np.mean([target[0] in items[:k] for items, target in zip(ranking.items, cases.targets, strict=True)])


def batch_of(inputs, rows=slice(6)):
    return packed_rows(inputs.examples["train"]).collate(np.arange(NUM_USERS)[rows])


# --- backbones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["t5", "causal_lm"])
def test_either_backbone_is_built_at_every_size(backbone):
    weights = []
    for size in ("small", "medium", "large"):
        chosen = ["paper=setrec", f"size={size}", f"recommender.set_query.backbone={backbone}"]
        tree = compose_tree(ROOT / "conf", chosen)
        config = params_from_tree(tree).recommender.options.parse(Config)
        with torch.device("meta"):
            network, _ = set_backbones.new_backbone(config)
        assert network.width == config.width == tree["tokenizer"]["set"]["width"]
        weights.append(sum(weight.numel() for weight in network.parameters()))
    assert 0 < 4 * weights[0] < weights[1] < weights[2] / 4


def save_words_of_the_prompt(folder):
    """A text tokenizer in a folder, as pretrained models have one."""
    from transformers import PreTrainedTokenizerFast

    words = train_word_tokenizer([set_backbones.PROMPT])
    PreTrainedTokenizerFast(tokenizer_object=words.backend, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return words


def answers_behind(network, items=(6, 7, 8), seen=3):
    """``(M, W)`` behind the first ``seen`` of three items."""
    with torch.inference_mode():
        return network.answers(network.corpus(), torch.tensor([items]), torch.tensor([3]), torch.tensor([[seen]]))[0, 0]


@pytest.mark.parametrize(("history", "alike"), [("causal", True), ("bidirectional", False)])
def test_items_of_a_t5_see_later_ones_in_a_bidirectional_history_alone(inputs, history, alike):
    network = build(inputs, replace(CONFIG, history=history)).eval()
    one, other = (answers_behind(network, items, seen=1) for items in ((6, 7, 8), (6, 9, 10)))
    assert torch.allclose(one, other, atol=1e-6) == alike


@pytest.mark.parametrize("config", [CONFIG, LM])
@pytest.mark.parametrize(("attention", "alike"), [("sparse", True), ("plain", False)])
def test_queries_see_each_other_in_plain_attention_alone(inputs, config, attention, alike):
    network = build(inputs, replace(config, attention=attention)).eval()
    before = answers_behind(network)
    with torch.no_grad():
        network.queries[0] += 1
    assert torch.allclose(answers_behind(network)[1:], before[1:], atol=1e-6) == alike


@pytest.mark.parametrize(("positions", "alike"), [("shared", True), ("flat", False)])
def test_equal_queries_of_an_lm_have_equal_answers_where_they_share_a_position(inputs, positions, alike):
    network = build(inputs, replace(LM, positions=positions)).eval()
    with torch.no_grad():
        network.queries[1:] = network.queries[0]
    found = answers_behind(network)
    assert torch.allclose(found[1:], found[:1], atol=1e-6) == alike


@pytest.mark.parametrize(("positions", "alike"), [("shared", True), ("flat", False)])
def test_how_far_queries_of_a_t5_stand_apart_matters_in_flat_positions_alone(inputs, positions, alike):
    network = build(inputs, replace(CONFIG, attention="plain", positions=positions)).eval()
    before = answers_behind(network)
    torch.nn.init.normal_(network.backbone.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    assert torch.allclose(answers_behind(network), before, atol=1e-6) == alike


def test_queries_start_near_zero(inputs):
    seed_everything(0)
    sets, vectors = SetAutoencoder(10, 6, (12,), 4, 512, torch.Generator()), torch.zeros(NUM_ITEMS, 10)
    queries = SetQueryNetwork(torch.nn.Identity(), sets, vectors, vectors[:, :6]).queries  # (5, 512)
    assert queries.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(queries.mean().item()) < 0.002


# --- losses (9, 10, 11) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("config", [CONFIG, LM])
def test_a_row_a_user_has_the_loss_of_one_sample_a_position(inputs, config, alpha):
    network = build(inputs, replace(config, alpha=alpha)).eval()
    packed = packed_rows(inputs.examples["train"])
    single = single_rows(packed)
    loss, count = network(packed.collate(np.arange(4)))
    parts = [network(single.collate(part)) for part in np.split(np.arange(20), 4)]  # five targets a user
    assert count == sum(part[1] for part in parts) == 4 * 5 * 3
    assert loss.item() == pytest.approx(sum(part[0].item() for part in parts), rel=1e-5)


def test_equal_scores_cost_the_logarithm_of_the_catalogue_in_each_dimension(inputs):
    network = build(inputs, replace(CONFIG, alpha=0.0))
    with torch.no_grad():
        for weight in network.sets.parameters():
            weight.zero_()
    loss, count = network(batch_of(inputs))
    assert loss.item() / count == pytest.approx(math.log(NUM_ITEMS), rel=1e-5)
    warm = build(inputs, replace(CONFIG, softmax="warm"))
    loss = warm.generation_loss(torch.zeros(4, 3, WIDTH), warm.corpus(), torch.tensor([6, 7, 8, 9]))
    assert loss.item() / 12 == pytest.approx(math.log(NUM_ITEMS - 6), rel=1e-5)


def cross_entropy(network, history, target, candidates=slice(None)):
    """Of one target, summed over dimensions."""
    with torch.no_grad():
        corpus = network.corpus()
        table = corpus if network.head is None else network.head
        scores = torch.einsum("mw,imw->mi", answers_to(network, corpus, history)[0], table)
        return float((scores[:, candidates].logsumexp(dim=1) - scores[:, target]).sum())


@pytest.mark.parametrize("head", ["tied", "free"])
def test_without_a_reconstruction_the_loss_is_a_cross_entropy_a_dimension_and_nothing_else(inputs, head):
    network = build(inputs, replace(CONFIG, alpha=0.0, head=head)).eval()
    rows = single_rows(packed_rows(inputs.examples["train"]))
    loss, count = network(rows.collate(np.arange(12)))
    expected = sum(cross_entropy(network, rows.histories.take(np.array([row])), int(rows.targets[row][0]))
                   for row in range(12))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert count == 12 * 3


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, softmax="warm"), replace(CONFIG, head="free")])
def test_the_validation_loss_is_that_of_each_users_first_target_where_it_is_a_candidate(inputs, accelerator, config):
    network, histories = build(inputs, config).eval(), inputs.examples["valid"].histories
    targets = [[3 + row % 6, 20] for row in range(NUM_USERS)]  # items 3 to 5 are cold
    held = Held(histories, replace(inputs.split.valid, targets=Ragged.from_rows(targets)), filter_history=True)
    first = 0 if config.softmax == "all" else COLD_ITEM + 1
    expected = [cross_entropy(network, histories.take(np.array([user])), target, slice(first, None)) / 3
                for user, (target, _) in enumerate(targets) if target >= first]
    assert validate_at(network, held, 0.3, accelerator)["loss"] == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("softmax", ["all", "warm"])
def test_the_target_is_the_row_of_its_own_number(inputs, softmax):
    network = build(inputs, replace(CONFIG, softmax=softmax))
    table, targets = 9 * torch.nn.functional.one_hot(torch.arange(NUM_ITEMS), WIDTH + 8).float(), torch.tensor([6, 23])
    table = table[:, None].expand(-1, 3, -1)
    assert network.generation_loss(table[targets], table, targets).item() < 1e-20
    assert network.generation_loss(table[targets], table, targets.flip(0)).item() == pytest.approx(2 * 3 * 81, rel=1e-4)


def test_reconstruction_looks_at_the_items_before_each_target_and_never_at_padding(inputs):
    network = build(inputs)
    with torch.no_grad():
        corpus = network.corpus()
        errors = network.sets.reconstruction_errors(network.vectors, corpus[:, 1:])
        items, seen = torch.tensor([[3, 8, 3], [7, -1, -1]]), torch.tensor([[2, 3], [1, 0]])
        found = network.reconstruction_loss(corpus, items, seen)
    expected = errors[[3, 8]].mean() + errors[[3, 8, 3]].mean() + errors[7]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_alpha_weighs_the_reconstruction_and_zero_leaves_nothing_of_it(inputs):
    batch, network = batch_of(inputs), build(inputs, replace(CONFIG, alpha=0.0))
    without, _ = network(batch)
    network.alpha = 2.0
    with torch.no_grad():
        loss = network.reconstruction_loss(network.corpus(), batch["items"], batch["seen"])
    assert network(batch)[0].item() == pytest.approx(without.item() + 2.0 * 3 * loss.item(), rel=1e-5)
    network.alpha = 0.0
    network(batch)[0].backward()
    assert all(weight.grad is None for weight in network.sets.decoder.parameters())
    for part in (network.sets.encoder, network.sets.projection, network.backbone.encoder):
        assert all(weight.grad.abs().sum() > 0 for weight in part.parameters())
    assert not network.vectors.requires_grad
    assert not network.cf_vectors.requires_grad


def test_the_decoder_learns_from_the_reconstruction_alone(inputs):
    network = build(inputs, replace(CONFIG, alpha=1.0))
    network(batch_of(inputs))[0].backward()
    whole = network.sets.decoder[0].weight.grad.clone()
    network.zero_grad()
    batch = batch_of(inputs)
    (3 * network.reconstruction_loss(network.corpus(), batch["items"], batch["seen"])).backward()
    torch.testing.assert_close(network.sets.decoder[0].weight.grad, whole)


def test_the_encoder_learns_from_the_reconstruction_too(inputs):
    network, batch = build(inputs), batch_of(inputs)
    network.reconstruction_loss(network.corpus(), batch["items"], batch["seen"]).backward()
    assert network.sets.encoder[0].weight.grad.abs().sum() > 0


def test_weights_of_an_lm_do_not_move_beside_adapters(inputs):
    network = build(inputs, replace(LM, lora_rank=2))
    network(batch_of(inputs))[0].backward()
    moved = {name for name, weight in network.backbone.named_parameters() if weight.grad is not None}
    assert moved
    assert all("lora_" in name for name in moved)
    assert network.queries.grad.abs().sum() > 0


@pytest.mark.parametrize(("rank", "trains"), [(2, False), (0, True)])
def test_the_prompt_of_an_lm_is_made_of_its_own_words_which_do_not_move_beside_adapters(inputs, tmp_path, rank, trains):
    words, sizes = save_words_of_the_prompt(tmp_path), Backbone(None, "opt", 1, 2, WIDTH, 32, max_positions=64)
    lm = build_causal_lm(sizes, words.size, 0, 1)
    lm.save_pretrained(tmp_path)
    network = build(inputs, replace(LM, pretrained=str(tmp_path), lora_rank=rank, lora_targets=("q_proj",)))
    ids = [words.id_of(word) for word in set_backbones.PROMPT.lower().split()]
    assert torch.equal(network.backbone.text, lm.get_input_embeddings().weight[ids])
    network(batch_of(inputs))[0].backward()
    grad = network.backbone.text.grad
    assert grad.abs().sum() > 0 if trains else grad is None


def test_frozen_queries_get_no_gradient_and_all_else_does(inputs, accelerator, tmp_path):
    network = build(inputs, replace(CONFIG, queries="frozen"))
    network(batch_of(inputs))[0].backward()
    assert network.queries.grad is None
    assert all(weight.grad is not None for name, weight in network.named_parameters() if name != "queries")
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, queries="frozen"), SHORT)
    assert np.array_equal(model.tensors["queries"], network.queries.detach().numpy())


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, head="free", queries="frozen")])
def test_a_process_may_get_no_row_of_a_batch(inputs, config):
    network = build(inputs, config)
    loss, count = network(batch_of(inputs, slice(0)))
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)
    assert all(weight.grad.abs().sum() == 0 for weight in network.parameters() if weight.requires_grad)


# --- one pass -------------------------------------------------------------------------------------------------------


def counted_calls(backbone):
    """How often a backbone and each of its linear layers are called from now on."""
    parts = [backbone, *(part for part in backbone.modules() if isinstance(part, Linear))]
    calls = Counter(dict.fromkeys(parts, 0))
    for part in parts:
        part.register_forward_hook(lambda module, arguments, output: calls.update([module]))
    return calls


@pytest.mark.parametrize("config", [CONFIG, LM])
def test_all_queries_are_answered_in_one_pass(inputs, config):
    network, batch = build(inputs, config), batch_of(inputs)
    calls = counted_calls(network.backbone)
    answers = network.answers(network.corpus(), batch["items"], batch["lengths"], batch["seen"])
    assert answers.shape == (*batch["seen"].shape, 3, WIDTH)
    assert len(calls) > 5
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("config", [CONFIG, LM])
def test_a_batch_is_ranked_in_one_pass(inputs, accelerator, tmp_path, config):
    model = run(inputs, accelerator, tmp_path, config, replace(SHORT, epochs=1))
    ranker = load_ranker(model, inputs, DECODE, accelerator=accelerator, seed=0)
    calls = counted_calls(ranker.network.backbone)
    ranker.rank(inputs.examples["test"], inputs.split.test)
    assert set(calls.values()) == {math.ceil(NUM_USERS / DECODE.batch_size)}


# --- grounding (7, 8) -----------------------------------------------------------------------------------------------


def test_weights_of_dimensions_worked_by_hand():
    assert dimension_weights(0.25, 3, 2).tolist() == [0.75, 0.25, 0.25]
    assert dimension_weights(0.25, 2, 2).tolist() == [1, 1]
    assert dimension_weights(0.25, 1, 0).tolist() == [1]


def check_ranks(model, table, beta, inputs, accelerator):
    """All items are ranked by the weighted products with ``table (I, M, W)``."""
    model = replace(model, config={**model.config, "chosen_beta": beta})
    ranker = load_ranker(model, inputs, DECODE, accelerator=accelerator, seed=0)
    found = rank(model, inputs, accelerator)[0]
    with torch.inference_mode():
        answers = answers_to(ranker.network.eval(), ranker.corpus, inputs.examples["test"].histories)
        parts = torch.einsum("umw,imw->mui", answers, torch.from_numpy(table))
    scores = ((1 - beta) * parts[0] + beta * parts[1:].sum(dim=0)).numpy()
    assert [items.tolist() for items in found.items] == np.argsort(-scores, axis=1).tolist()
    np.testing.assert_allclose(found.scores.reshape(NUM_USERS, -1), -np.sort(-scores, axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_ranks_are_by_the_weighted_sum_over_dimensions(trained, inputs, accelerator, beta):
    check_ranks(trained, trained.item_vectors, beta, inputs, accelerator)


def test_with_a_free_head_ranks_are_by_its_own_table(inputs, accelerator, tmp_path):
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, head="free"), replace(SHORT, epochs=1))
    check_ranks(model, model.tensors["head"], 0.3, inputs, accelerator)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_another_beta_in_decode_ranks_as_a_model_that_chose_it(trained, inputs, accelerator, beta):
    model = replace(trained, config={**trained.config, "chosen_beta": beta})
    one, two = (rank(trained, inputs, accelerator, replace(DECODE, beta=beta))[0], rank(model, inputs, accelerator)[0])
    assert np.array_equal(one.items.values, two.items.values)
    assert np.array_equal(one.scores, two.scores)


def test_with_beta_1_collaborative_tokens_of_items_do_not_matter_and_with_beta_0_texts(trained, inputs, accelerator):
    for beta, dimension in ((1.0, slice(0, 1)), (0.0, slice(1, 3))):
        model = replace(trained, config={**trained.config, "chosen_beta": beta})
        corpus = trained.item_vectors.copy()
        ranker = load_ranker(model, inputs, DECODE, accelerator=accelerator, seed=0)
        table = corpus.copy()
        table[:, dimension] = 7.0
        with torch.inference_mode():
            states = ranker.network.eval() and ranker.states(inputs.examples["test"].histories)
        scores, others = (states @ torch.from_numpy(part).flatten(1).T for part in (corpus, table))
        torch.testing.assert_close(scores, others)


def test_an_item_known_by_its_text_alone_is_added_and_changes_no_other_score(trained, inputs, accelerator):
    text = 3 * inputs.vectors[8:9]
    larger = add_items(trained, text)
    assert np.array_equal(larger.item_vectors[:NUM_ITEMS], trained.item_vectors)
    assert (larger.item_vectors[NUM_ITEMS, 0] == 0).all()
    same = add_items(trained, inputs.vectors)
    np.testing.assert_allclose(same.item_vectors[NUM_ITEMS:, 1:], trained.item_vectors[:, 1:], rtol=1e-5, atol=1e-5)
    split = replace(inputs.split, warm=np.append(inputs.split.warm, False),
                    train_count=np.append(inputs.split.train_count, 0))
    before, after = (rank(model, replace(inputs, split=part), accelerator, replace(DECODE, top_k=NUM_ITEMS + 1))[0]
                     for model, part in ((trained, inputs.split), (larger, split)))
    for user in range(NUM_USERS):
        old, new = (dict(zip(found.items[user], found.scores.reshape(NUM_USERS, -1)[user], strict=True))
                    for found in (before, after))
        assert new.keys() - old.keys() == {NUM_ITEMS}
        assert {item: new[item] for item in old} == pytest.approx(old, rel=1e-5, abs=1e-5)


def test_the_cold_list_has_held_out_cold_items_only(trained, inputs, accelerator):
    targets = Ragged.from_rows([[row % 5] for row in range(len(inputs.split.valid))])  # nobody has the sixth cold item
    inputs = replace(inputs, split=replace(inputs.split, valid=replace(inputs.split.valid, targets=targets)))
    found = {ranking.candidates: ranking for ranking in
             rank(trained, inputs, accelerator, replace(DECODE, candidate_sets=True, top_k=6))}
    assert set(found["cold"].items.values.tolist()) == set(range(5))
    assert min(found["warm"].items.values) >= 6


def test_cold_items_may_go_without_a_collaborative_score(inputs, accelerator, tmp_path):
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, cold_cf="zero"), SHORT)
    assert (model.item_vectors[: COLD_ITEM + 1, 0] == 0).all()
    assert (model.item_vectors[COLD_ITEM + 1 :, 0] != 0).any(axis=1).all()
    assert (model.item_vectors[:, 1:] != 0).any(axis=2).all()


# --- training -------------------------------------------------------------------------------------------------------


def test_it_learns_what_comes_next(trained, inputs, accelerator):
    assert recall(rank(trained, inputs, accelerator)[0], inputs.split.test) > 0.8  # chance: 5 of 24
    assert trained.training[-1].keys() >= {"valid_loss", "valid_ndcg@10", "valid_recall@10"}
    assert trained.item_vectors.shape == (NUM_ITEMS, 3, WIDTH)


def test_tokens_of_an_item_are_those_of_its_own_vectors(trained, inputs):
    tensors = {name.removeprefix("sets."): value for name, value in trained.tensors.items() if name.startswith("sets.")}
    for item in range(NUM_ITEMS):
        own = slice(item, item + 1)
        alone = set_tokenizer.tokens_of_items(inputs.vectors[own], inputs.cf_vectors[own], tensors,
                                              trained.config["sets"])
        np.testing.assert_allclose(trained.item_vectors[own], alone, rtol=1e-5, atol=1e-6)
    by_hand = tensors["cf_scale"] * inputs.cf_vectors @ tensors["projection.0.weight"].T + tensors["projection.0.bias"]
    np.testing.assert_allclose(trained.item_vectors[:, 0], by_hand, rtol=1e-5, atol=1e-5)


def test_beta_is_the_best_of_the_validation_curve(trained, inputs, accelerator):
    table = trained.tables["beta"]
    assert [row["beta"] for row in table] == list(BETAS)
    best = max(table, key=lambda row: row["ndcg@10"])
    assert trained.config["chosen_beta"] == best["beta"]
    other = rank(replace(trained, config={**trained.config, "chosen_beta": 0.2}), inputs, accelerator,
                 replace(DECODE, filter_history=True), "valid")[0]
    assert recall(other, inputs.split.valid, 10) == pytest.approx(table[2]["recall@10"])


def test_test_targets_change_nothing(inputs, accelerator, tmp_path):
    test = replace(inputs.split.test, targets=inputs.split.test.histories.last(1))
    blind = replace(inputs, split=replace(inputs.split, test=test),
                    examples={name: inputs.examples[name] for name in ("train", "valid")})
    one, two = (run(part, accelerator, tmp_path / name, training=SHORT) for name, part in (("a", inputs), ("b", blind)))
    assert one.config == two.config
    assert one.tables == two.tables
    assert all(np.array_equal(value, two.tensors[name]) for name, value in one.tensors.items())


def test_a_killed_run_goes_on_to_the_same_end(inputs, accelerator, train_through_a_kill):
    config, training = replace(CONFIG, dropout=0.1), replace(SHORT, epochs=3)
    train_through_a_kill(lambda folder: run(inputs, accelerator, folder, config, training), TargetRows, "collate",
                         at=14)  # in the third epoch, of six batches


VARIANTS = {
    "without semantic tokens": CONFIG, "e4srec": replace(CONFIG, head="free"),
    "without cf": replace(CONFIG, use_cf=False), "bidirectional": replace(CONFIG, history="bidirectional"),
    "plain": replace(CONFIG, attention="plain", positions="flat"),
    "given beta": replace(CONFIG, beta=0.1), "warm": replace(CONFIG, softmax="warm"), "qwen2": LM,
    "adapters": replace(LM, lora_rank=2), "gpt2": replace(LM, family="gpt2", positions="flat"),
    "opt": replace(LM, family="opt", lora_targets=("q_proj",)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_is_read_back_from_its_files_alone(inputs, accelerator, tmp_path, monkeypatch, name):
    if name in ("without semantic tokens", "e4srec"):
        inputs = replace(inputs, identifiers=sets_of(inputs.vectors, inputs.cf_vectors, tokens=0))
    config = VARIANTS[name]
    model = run(inputs, accelerator, tmp_path, config, SHORT)
    size = {"without semantic tokens": 1, "e4srec": 1, "without cf": 2}.get(name, 3)
    assert model.item_vectors.shape == (NUM_ITEMS, size, WIDTH)
    assert len(model.tables["beta"]) == (11 if size == 3 else 1)
    write_model(tmp_path / "model", model)
    for loader in ("load_t5", "load_text_tokenizer"):
        monkeypatch.setattr(set_backbones, loader, None)
    one, two = (rank(saved, inputs, accelerator)[0] for saved in (model, read_model(tmp_path / "model")))
    assert np.array_equal(one.scores, two.scores)
    assert (one.items.lengths == NUM_ITEMS).all()


def test_a_pretrained_t5_reads_the_prompt_and_is_then_needed_no_more(inputs, accelerator, tmp_path):
    words = save_words_of_the_prompt(tmp_path / "t5")
    build_t5(words.size, WIDTH, 1, 2, 8, 32, 0.0).save_pretrained(tmp_path / "t5")
    config = replace(CONFIG, pretrained=str(tmp_path / "t5"))
    model = run(inputs, accelerator, tmp_path, config, SHORT)
    assert model.tensors["backbone.text"].shape == (len(set_backbones.PROMPT.split()), WIDTH)
    (tmp_path / "t5").rename(tmp_path / "gone")
    assert (rank(model, inputs, accelerator)[0].items.lengths == NUM_ITEMS).all()


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "message"), [
    ({"width": 8}, f"tokenizer.set.width={WIDTH}, but the backbone is 8 wide; set tokenizer.set.width=8"),
    ({"backbone": "causal_lm", "history": "bidirectional"}, "does not fit backbone=causal_lm")])
def test_impossible_options_are_refused(inputs, accelerator, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(inputs, accelerator, tmp_path, replace(CONFIG, **change))


def test_other_identifiers_are_refused(inputs, accelerator, tmp_path):
    with pytest.raises(ValueError, match="quantize made none; set tokenizer.kind=set"):
        run(replace(inputs, identifiers=Identifiers(None, (), config={"kind": "none"})), accelerator, tmp_path)
    with pytest.raises(ValueError, match="cf_dimensions=6, but the vectors have 4; re-run quantize"):
        run(replace(inputs, cf_vectors=inputs.cf_vectors[:, :4]), accelerator, tmp_path)


def test_items_that_the_model_does_not_know_are_refused(trained, inputs, accelerator):
    smaller = replace(trained, item_vectors=trained.item_vectors[:-1])
    with pytest.raises(ValueError, match="knows 23 items, but the split has 24"):
        rank(smaller, inputs, accelerator)
    with pytest.raises(ValueError, match="4 dimensions, but the model was trained for 10"):
        add_items(trained, inputs.vectors[:, :4])
