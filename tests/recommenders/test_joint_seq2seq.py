"""Acceptance of ETEGRec on a toy catalogue where the next item follows from the last one.

What of the checklist is tested elsewhere: 1, 13 in quantizers/test_residual.py and test_residual_vae.py, 2 and 4 in
test_alignment.py, 11 in decoding/test_beam.py, 14 in interactions/test_splitting.py and sequences/test_histories.py.
"""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.params import DecodeParams, SequencesParams, TrainingParams
from pipeline_lib.quantizers.collisions import place_in_bucket
from pipeline_lib.recommenders import joint_network, joint_seq2seq, seq2seq
from pipeline_lib.recommenders.joint_seq2seq import Config, load_ranker, train
from pipeline_lib.records import RecommenderInputs, TokenizerInputs
from pipeline_lib.seeding import seed_everything
from pipeline_lib.sequences.code_examples import build_examples
from pipeline_lib.tokenizers import rqvae
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import learning_rate_factor
from tests.recommenders.conftest import circular_walks, split_of

NUM_ITEMS, LEVELS, CODEBOOK_SIZE = 24, 2, 6
SIZES = {"layers": 1, "heads": 2, "head_size": 8, "width": 16, "feed_forward": 32, "dropout": 0.1, "softmax": "level"}
CONFIG = Config(**SIZES, sia_weight=1e-2, psa_weight=1e-2, warmup_epochs=2, tokenizer_learning_rate=0.01,
                suffix_size=24, final_epochs=2)
TRAINING = TrainingParams(epochs=6, batch_size=32, learning_rate=0.01, patience=30)
DECODE = DecodeParams("beam", beam_size=NUM_ITEMS, top_k=NUM_ITEMS, batch_size=7, filter_history=False)


def make_inputs():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(NUM_ITEMS, 5)).astype(np.float32)
    vectors[3] = vectors[7]  # the same codes, whatever the tokenizer
    walks = circular_walks(generator.integers(0, NUM_ITEMS, size=60), NUM_ITEMS)
    split = replace(split_of(walks, np.ones(NUM_ITEMS, dtype=bool)), filter_history=False)
    tokenizer = rqvae.Config(levels=LEVELS, codebook_size=CODEBOOK_SIZE, hidden=(8,), latent=4, epochs=20,
                             batch_size=24)
    identifiers = rqvae.tokenize_items(TokenizerInputs(vectors, vectors, split.train, {}), tokenizer,
                                       collisions="suffix", seed=0)
    examples, vocabulary = build_examples(split, identifiers, SequencesParams(4))
    return RecommenderInputs(examples, vocabulary, identifiers, split, vectors, vectors)


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


@pytest.fixture
def model(inputs):
    seed_everything(0)
    return joint_seq2seq._build(replace(CONFIG, dropout=0.0), inputs)


@pytest.fixture
def batch(model, inputs):
    return model.batch_of(inputs.examples["train"], np.arange(12))


def run(inputs, accelerator, folder, config=CONFIG, training=TRAINING, seed=0):
    return train(inputs, config, training, checkpoints=Checkpoints(folder / "run"), accelerator=accelerator, seed=seed)


@pytest.fixture(scope="module")
def trained(inputs, accelerator, tmp_path_factory):
    return run(inputs, accelerator, tmp_path_factory.mktemp("joint"))


def test_without_scikit_learn_it_fails_before_it_trains(inputs, accelerator, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.delitem(sys.modules, "pipeline_lib.recommenders.state_map", raising=False)
    with pytest.raises(ImportError, match="sklearn"):
        run(inputs, accelerator, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


def gradient_of(loss, states):
    (gradient,) = torch.autograd.grad(loss, states, allow_unused=True)
    return torch.zeros_like(states) if gradient is None else gradient


# --- 3: the sequence-item alignment ---


def levels_that_reach(model, gradient_kind):
    """For each level alone, whether its divergence sends a gradient into z^E."""
    model.tokenizer.quantizer.residual_gradient = gradient_kind
    latents = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.no_grad():
        item = model.tokenizer(model.vectors[:5])[1].distances
    reached = []
    for level in range(LEVELS):
        distances = model.tokenizer.quantizer(latents).distances[:, level : level + 1]
        loss = joint_network.sequence_item_alignment(item[:, level : level + 1], distances)
        reached.append(bool((gradient_of(loss, latents) != 0).any()))
    return reached


def test_every_level_of_the_alignment_reaches_the_sequence_and_only_the_first_where_residual_gradients_are_cut(model):
    assert levels_that_reach(model, "identity") == [True, True]
    assert levels_that_reach(model, "zero") == [True, False]


def test_a_sequence_that_lies_where_its_item_lies_has_no_divergence(model, inputs):
    examples = inputs.examples["train"]
    batch = model.batch_of(examples, np.flatnonzero(examples.targets.values == 9)[:3])
    model.take_turn(recommender=True, tokenizer=False, aligned=True)
    divergences = []
    for item in (9, 2):
        with torch.no_grad():  # z^E is the item's latent, whatever the history
            model.sequence_adapter.weight.zero_()
            model.sequence_adapter.bias.copy_(model.tokenizer.latents(model.vectors[[item]])[0])
        model(batch)
        divergences.append(model.figures()["sia_loss"])
        model.take_turn(recommender=True, tokenizer=False, aligned=True)
    assert divergences[0] == 0 < divergences[1]


def test_steps_of_the_recommender_on_the_alignment_alone_bring_the_distributions_together(model, batch):
    model.take_turn(recommender=True, tokenizer=False, aligned=True)
    optimizer = torch.optim.SGD(model.recommender.parameters(), lr=0.5)

    def divergence():
        latents = model.sequence_latents(model.recommender.states(batch)[0], batch["attention_mask"])[batch["first"]]
        item = model.tokenizer(model.vectors[batch["targets"]])[1].distances
        return joint_network.sequence_item_alignment(item, model.tokenizer.quantizer(latents).distances)

    before = divergence().item()
    for _ in range(5):
        optimizer.zero_grad()
        divergence().backward()
        optimizer.step()
    assert divergence().item() < before


# --- 5 and 6: who is trained, who only passes gradients on ---


def step(model, batch):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
    loss, count = model.train()(batch)
    (loss / count).backward()
    optimizer.step()


def test_a_tokenizer_turn_changes_nothing_of_the_recommender(model, batch):
    model.take_turn(recommender=False, tokenizer=True, aligned=True)
    others = [weights(part) for part in (model.recommender, model.sequence_adapter, model.preference_adapter)]
    tokenizer, vectors = weights(model.tokenizer), model.vectors.clone()
    step(model, batch)
    assert all(same(before, weights(part)) for before, part in zip(
        others, (model.recommender, model.sequence_adapter, model.preference_adapter), strict=True))
    assert not same(tokenizer, weights(model.tokenizer))
    assert torch.equal(vectors, model.vectors) and not model.recommender.training


def test_a_recommender_turn_changes_neither_tokenizer_nor_codes(model, batch):
    model.take_turn(recommender=True, tokenizer=False, aligned=True)
    tokenizer, codes, adapter = weights(model.tokenizer), model.codes.clone(), weights(model.sequence_adapter)
    step(model, batch)
    assert same(tokenizer, weights(model.tokenizer)) and torch.equal(codes, model.codes)
    assert not same(adapter, weights(model.sequence_adapter)) and model.recommender.training


def test_the_frozen_tokenizer_passes_the_gradient_of_the_alignment_to_the_encoder_states(model, batch):
    model.take_turn(recommender=True, tokenizer=False, aligned=True)
    encoded, _ = model.recommender.states(batch)
    latents = model.sequence_latents(encoded, batch["attention_mask"])[batch["first"]]
    item = model.tokenizer(model.vectors[batch["targets"]])[1].distances
    loss = joint_network.sequence_item_alignment(item, model.tokenizer.quantizer(latents).distances)
    assert (gradient_of(loss, encoded) != 0).any()


def test_the_frozen_recommender_lets_the_contrast_train_the_tokenizers_decoder_and_encoder(model, batch):
    model.take_turn(recommender=False, tokenizer=True, aligned=True)
    preferences = model.preference_adapter(model.recommender.states(batch)[1][batch["first"], 0])
    for part in (model.tokenizer.decoder, model.tokenizer.encoder):
        semantics = model.tokenizer(model.vectors[batch["targets"]])[0]
        loss = joint_network.preference_semantic_alignment(preferences, semantics, 0.07)
        assert (gradient_of(loss, part[0].weight) != 0).any()


@pytest.mark.parametrize(("recommender", "tokenizer", "own"), [
    (False, True, {"quantization_loss"}),
    (True, False, {"recommendation_loss"}),
    (True, True, {"quantization_loss", "recommendation_loss"}),
])
def test_the_losses_of_a_turn_add_up_each_by_its_own_weight(inputs, recommender, tokenizer, own):
    model = joint_seq2seq._build(replace(CONFIG, dropout=0.0, sia_weight=0.3, psa_weight=0.02), inputs)
    model.take_turn(recommender, tokenizer, aligned=True)
    loss, count = model(model.batch_of(inputs.examples["train"], np.arange(12)))
    figures = model.figures()
    assert figures.keys() == own | {"sia_loss", "psa_loss"}
    expected = sum(figures[name] for name in own) + 0.3 * figures["sia_loss"] + 0.02 * figures["psa_loss"]
    assert (loss / count).item() == pytest.approx(expected, rel=1e-5)


def test_the_commitment_loss_counts_as_much_as_the_options_say(inputs):
    losses = []
    for commitment in (0.0, 2.0):
        model = joint_seq2seq._build(replace(CONFIG, commitment=commitment), inputs)
        model.take_turn(recommender=False, tokenizer=True, aligned=False)
        batch = model.batch_of(inputs.examples["train"], np.arange(12))
        model(batch)
        losses.append(model.figures()["quantization_loss"])
    committed = model.tokenizer(model.vectors[batch["targets"]])[1].commitment_losses.sum() / model.tokenizer.scale**2
    assert losses[1] - losses[0] == pytest.approx(2.0 * committed.item(), rel=1e-4)


# --- 2 and 4 to 6 again: what the network hands to the losses, against one item after the other ---


@pytest.fixture
def repeating(inputs):
    """Rows whose targets come back, not in the order of items."""
    targets = np.array([row[0] for row in inputs.examples["train"].targets])
    rows = np.concatenate([np.flatnonzero(targets == item)[:3] for item in (9, 2, 14, 20, 5)])
    rows = np.random.default_rng(0).permutation(rows)
    assert len(np.unique(targets[rows])) < len(rows) and (np.diff(targets[rows]) < 0).any()
    return rows


def one_by_one(model, examples, rows, sign):
    """Preference and semantics, and the code distributions of item and sequence, of each different target."""
    items = {}
    for row in rows:
        items.setdefault(int(examples.targets[row][0]), row)

    def distributions(residual):
        for codebook in model.tokenizer.quantizer.codebooks:
            distances = ((residual - codebook) ** 2).sum(dim=1)
            logits = sign * distances / model.tokenizer.scale**2
            yield logits.exp() / logits.exp().sum()
            residual = residual - codebook[distances.argmin()].detach()  # codewords learn as those of their level alone

    pairs, divergences = [], []
    for item, row in items.items():
        encoded, decoded = model.recommender.states(model.batch_of(examples, np.array([row])))
        pairs.append((model.preference_adapter(decoded[0, 0]), model.tokenizer(model.vectors[[item]])[0][0]))
        levels = zip(distributions(model.tokenizer.latents(model.vectors[item])),
                     distributions(model.sequence_adapter(encoded[0].mean(dim=0))), strict=True)
        divergences += [(p * (p / q).log()).sum() + (q * (q / p).log()).sum() for p, q in levels]
    return pairs, divergences


@pytest.mark.parametrize(("name", "sign"), [("minus", -1), ("plus", 1)])
def test_alignment_losses_are_those_of_one_different_target_after_the_other(inputs, repeating, name, sign):
    seed_everything(0)
    model = joint_seq2seq._build(replace(CONFIG, dropout=0.0, sia_sign=name, temperature=0.3), inputs)
    model.take_turn(recommender=True, tokenizer=False, aligned=True)
    model(model.batch_of(inputs.examples["train"], repeating))
    pairs, divergences = one_by_one(model, inputs.examples["train"], repeating, sign)
    assert len(pairs) == 5 and len(divergences) == 5 * LEVELS
    alike = torch.stack([torch.stack([torch.cosine_similarity(one, other, dim=0) for _, other in pairs])
                         for one, _ in pairs]) / 0.3
    contrast = -sum(alike[i].log_softmax(0)[i] + alike[:, i].log_softmax(0)[i] for i in range(5)) / 5
    figures = model.figures()
    assert figures["sia_loss"] == pytest.approx(torch.stack(divergences).mean().item(), rel=1e-4)
    assert figures["psa_loss"] == pytest.approx(contrast.item(), rel=1e-4)


@pytest.mark.parametrize("recommender", [False, True])
def test_the_alignment_teaches_the_tokenizer_by_the_distributions_of_both_sides(inputs, repeating, recommender):
    seed_everything(0)
    model = joint_seq2seq._build(replace(CONFIG, dropout=0.0, sia_weight=1.0, psa_weight=0.0), inputs)
    learning, gradients = (model.tokenizer.quantizer.codebooks, model.tokenizer.encoder[0].weight), []
    for aligned in (False, True):
        model.take_turn(recommender, tokenizer=True, aligned=aligned)
        loss, count = model(model.batch_of(inputs.examples["train"], repeating))
        gradients.append(torch.autograd.grad(loss / count, learning))
    expected = torch.autograd.grad(
        torch.stack(one_by_one(model, inputs.examples["train"], repeating, sign=-1)[1]).mean(), learning)
    for without, with_it, gradient in zip(*gradients, expected, strict=True):
        torch.testing.assert_close(with_it - without, gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


@torch.no_grad()
def unscaled(model):
    """The same model with a tokenizer that reads vectors as they are given: what adds to latents is smaller by as much."""
    tokenizer, scale = model.tokenizer, model.tokenizer.scale.item()
    added = [model.sequence_adapter.weight, model.sequence_adapter.bias, tokenizer.quantizer.codebooks,
             *(layer.bias for part in (tokenizer.encoder, tokenizer.decoder) for layer in part if hasattr(layer, "bias"))]
    for weight in added:
        weight /= scale
    tokenizer.scale.fill_(1.0)
    return model


def test_losses_are_in_the_units_of_the_vectors_however_the_tokenizer_scales_them(inputs, repeating):
    vectors = inputs.vectors / 10
    tensors = {**inputs.identifiers.tensors, "scale": inputs.identifiers.tensors["scale"] * 10}
    small = replace(inputs, vectors=vectors, identifiers=replace(inputs.identifiers, tensors=tensors))
    seed_everything(0)
    model = joint_seq2seq._build(replace(CONFIG, dropout=0.0), small)
    assert model.tokenizer.scale > 5
    figures = []
    for one in (model, unscaled(copy.deepcopy(model))):
        one.take_turn(recommender=True, tokenizer=True, aligned=True)
        one(one.batch_of(inputs.examples["train"], repeating))
        figures.append(one.figures())
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


PARTS = ("recommender.t5.encoder", "recommender.t5.decoder", "sequence_adapter", "preference_adapter",
         "tokenizer.encoder", "tokenizer.decoder", "tokenizer.quantizer.codebooks")


@pytest.mark.parametrize(("turn", "weights", "reached"), [
    ("recommender", (1, 0), {"recommender.t5.encoder", "sequence_adapter"}),
    ("recommender", (0, 1), {"recommender.t5.encoder", "recommender.t5.decoder", "preference_adapter"}),
    ("tokenizer", (1, 0), {"tokenizer.encoder", "tokenizer.quantizer.codebooks"}),
    ("tokenizer", (0, 1), {"tokenizer.encoder", "tokenizer.decoder"}),
])
def test_an_alignment_loss_reaches_these_parts_in_a_turn_and_no_others(model, inputs, repeating, turn, weights,
                                                                       reached):
    batch, gradients = model.batch_of(inputs.examples["train"], repeating), []
    for model.weights in ((0, 0), weights):
        model.take_turn(recommender=turn == "recommender", tokenizer=turn == "tokenizer", aligned=True)
        model.zero_grad()
        loss, count = model(batch)
        (loss / count).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    without, aligned = gradients
    changed = {name for name, value in aligned.items() if (value - without.get(name, 0)).abs().max() > 1e-5}
    assert {part for part in PARTS if any(name.startswith(part) for name in changed)} == reached


def test_the_way_residuals_pass_gradients_on_is_that_of_the_options(inputs):
    for kind in ("identity", "zero"):
        built = joint_seq2seq._build(replace(CONFIG, residual_gradient=kind), inputs)
        assert built.tokenizer.quantizer.residual_gradient == kind


# --- 7 to 10: codes, tokens and padding ---


def test_codes_with_suffix_are_unique_and_suffixes_count_from_zero(trained):
    codes = trained.item_codes
    assert codes.shape == (NUM_ITEMS, LEVELS + 1) and len(np.unique(codes, axis=0)) == NUM_ITEMS
    assert np.array_equal(codes[:, -1], place_in_bucket(codes[:, :-1]))
    assert codes[3, :-1].tolist() == codes[7, :-1].tolist() and codes[3, -1] < codes[7, -1]


def test_items_without_a_suffix_take_another_last_code(inputs, caplog):
    model = joint_seq2seq._build(replace(CONFIG, suffix_size=0), inputs)
    with torch.no_grad():
        model.tokenizer.quantizer.codebooks.zero_()  # all items alike: the last level has to tell them apart
    room = model.vocabulary.level_sizes[-1]
    model.refresh_codes()
    codes = model.codes.numpy()
    assert len(np.unique(codes, axis=0)) == NUM_ITEMS and codes[:, -1].max() == room - 1
    assert (codes[:, :-2] == 0).all() and (codes[:room, -2] == 0).all() and (codes[room:, -2] != 0).all()
    assert f"{NUM_ITEMS - room} items took another last code, since more than " in caplog.text


def test_a_code_of_a_level_concerns_the_items_that_have_it_and_no_others(model, batch):
    level, code = 1, int(batch["labels"][0, 1]) - model.vocabulary.level_offsets[1]
    token = model.vocabulary.level_offsets[level] + code
    tokens = model.codes + model.offsets  # (N, L + 1)
    before = model.recommender.t5.shared(tokens)
    with torch.no_grad():
        model.recommender.t5.shared.weight[token] += 1
    changed = (model.recommender.t5.shared(tokens) != before).any(dim=-1)  # (N, L + 1)
    assert torch.equal(changed.any(dim=1), model.codes[:, level] == code)
    assert not changed[:, [0, 2]].any()


def test_probabilities_are_among_the_codes_of_one_level_and_there_are_as_many_as_levels_and_the_suffix(model, batch):
    _, decoded = model.recommender.states(batch)
    assert decoded.shape[1] == LEVELS + 1
    loss, count = model.recommender.loss(decoded, batch["labels"])
    with torch.no_grad():  # rows of other levels take no part
        model.recommender.t5.shared.weight[: model.vocabulary.level_offsets[0]] += 5
    assert model.recommender.loss(decoded, batch["labels"])[0].item() == pytest.approx(loss.item())
    assert int(count) == 12 * (LEVELS + 1)


def test_padding_changes_neither_states_nor_the_sequence_latent(model, batch):
    model.eval()
    padded = {**batch,
              **{name: torch.nn.functional.pad(batch[name], (0, 6)) for name in ("input_ids", "attention_mask")}}
    encoded, decoded = model.recommender.states(batch)
    encoded_padded, decoded_padded = model.recommender.states(padded)
    torch.testing.assert_close(decoded_padded, decoded)
    torch.testing.assert_close(model.sequence_latents(encoded_padded, padded["attention_mask"]),
                               model.sequence_latents(encoded, batch["attention_mask"]))


def test_tokens_made_from_present_codes_are_those_of_the_examples_while_codes_are_the_first(model, inputs):
    rows = np.array([5, 0, 9])
    plain = seq2seq.collate(inputs.examples["train"], rows)
    ours = model.batch_of(inputs.examples["train"], rows)
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


# --- 12: schedule and checkpoints ---


def test_turns_warmup_and_refreshes_follow_the_schedule(trained):
    joint, final = trained.training[:6], trained.training[6:]
    assert ["changed_codes" in row for row in joint] == [True, False, True, False, True, False]
    assert ["valid_ndcg@10" in row for row in joint] == [False, True, False, True, False, True]
    assert ["recommendation_loss" in row for row in joint] == [False, True, False, True, False, True]
    assert ["sia_loss" in row and "psa_loss" in row for row in joint] == [False, False, True, True, True, True]
    assert [row["epoch"] for row in final] == [7, 8]


@pytest.mark.parametrize("final", ["finetune", "retrain"])
def test_the_final_phase_trains_the_recommender_alone_by_its_own_loss(model, inputs, accelerator, tmp_path, final):
    config = replace(CONFIG, dropout=0.0, final=final, final_epochs=1)
    model.take_turn(recommender=False, tokenizer=True, aligned=True)  # whatever the last turn was
    recommender, tokenizer = weights(model.recommender), weights(model.tokenizer)
    before = [{"epoch": 1, "valid_ndcg@10": -1.0}]  # worse than any: what the phase trained is kept
    rows = joint_seq2seq._final(model, inputs, config, replace(TRAINING, epochs=1), Checkpoints(tmp_path / "final"),
                                accelerator, 0, before)
    assert model.figures() == {"recommendation_loss": pytest.approx(rows[0]["train_loss"], rel=1e-5)}
    assert same(tokenizer, weights(model.tokenizer)) and not same(recommender, weights(model.recommender))


@pytest.mark.parametrize("cycle", [2, 3, 4])
def test_the_tokenizer_trains_in_the_first_epoch_of_every_cycle(model, cycle):
    turns = joint_seq2seq._turns(model, replace(CONFIG, cycle=cycle), TRAINING)
    tokenizers_turn = {2: [1, 3, 5, 7, 9], 3: [1, 4, 7], 4: [1, 5, 9]}[cycle]
    for epoch in range(1, 10):
        turns.begin(epoch)
        trains = epoch in tokenizers_turn
        assert (model.trains_tokenizer, model.trains_recommender, turns.validated(epoch)) == (trains, not trains, not trains)
        assert model.tokenizer.quantizer.codebooks.requires_grad == trains


def test_a_model_that_was_saved_ranks_by_its_own_codes_as_at_its_best_epoch(trained, inputs, accelerator):
    assert not np.array_equal(trained.item_codes, inputs.identifiers.codes)
    ranker = load_ranker(trained, inputs, replace(DECODE, beam_size=10, top_k=10), accelerator=accelerator, seed=0)
    lists = ranker.rank(inputs.examples["valid"], inputs.split.valid).rankings[0].items
    found = ranking_metrics(lists, inputs.split.valid.targets, (10,))
    best = max((row for row in trained.training if "valid_ndcg@10" in row), key=lambda row: row["valid_ndcg@10"])
    for name in ("ndcg@10", "recall@10"):
        assert found[name].mean() == pytest.approx(best[f"valid_{name}"], rel=1e-6)


def test_in_mixed_precision_the_tokenizer_works_as_in_full(model, inputs):
    batch, losses = model.batch_of(inputs.examples["train"], np.arange(16)), []
    for enabled in (False, True):
        model.take_turn(False, True, aligned=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, count = model(batch)
        losses.append(loss.item())
        model.take_turn(True, False, aligned=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model(batch)
        losses.append({name: total.item() for name, total in model.sums.items()})
    assert losses[0] == losses[2]
    assert losses[1] == pytest.approx(losses[3], rel=0.05) and losses[1] != losses[3]


def test_codes_change_in_a_tokenizer_epoch_and_are_saved_with_the_model_that_reads_them(trained, inputs, accelerator):
    assert any(row.get("changed_codes", 0) > 0 for row in trained.training)
    ranker = load_ranker(trained, inputs, DECODE, accelerator=accelerator, seed=0)
    state = {name: torch.from_numpy(value) for name, value in trained.tensors.items()}
    rebuilt = joint_seq2seq._build(Config(**{n: trained.config[n] for n in Config.__dataclass_fields__}), inputs)
    rebuilt.load_state_dict({**state, "codes": torch.from_numpy(trained.item_codes).long()})
    rebuilt.eval()
    if rebuilt.refresh_codes() > 0:  # the best epoch's codes are those of its own tokenizer
        pytest.fail("the saved codes are not what the saved tokenizer gives")
    held = inputs.examples["valid"], inputs.split.valid, trained.item_codes, inputs.split
    found = joint_seq2seq.validate_network(ranker.model.eval(), *held, TRAINING, ranker.collate, accelerator, 0)
    best = max((row for row in trained.training if "valid_ndcg@10" in row), key=lambda row: row["valid_ndcg@10"])
    assert found == pytest.approx({name: best[f"valid_{name}"] for name in found}, rel=1e-6)


def test_a_tokenizer_without_a_learning_rate_stays_as_it_was(trained, inputs, accelerator, tmp_path):
    still = run(inputs, accelerator, tmp_path, replace(CONFIG, tokenizer_learning_rate=0.0, final="none"),
                replace(TRAINING, epochs=4))
    for name, value in inputs.identifiers.tensors.items():
        assert np.array_equal(still.tensors[f"tokenizer.{name}"], value)
        assert name == "scale" or not np.array_equal(trained.tensors[f"tokenizer.{name}"], value)
    assert np.array_equal(still.item_codes, inputs.identifiers.codes)


def test_either_side_learns_at_its_own_rate_and_the_final_phase_at_another(model, trained):
    turns = joint_seq2seq._turns(model, replace(CONFIG, tokenizer_learning_rate=0.002), TRAINING)
    shares = {name.split(".")[0]: turns.rate_share(name) for name, _ in model.named_parameters()}
    assert shares == {"recommender": 1.0, "sequence_adapter": 1.0, "preference_adapter": 1.0,
                      "tokenizer": pytest.approx(0.2)}
    steps = int(trained.training[6]["step"])
    rates = [CONFIG.final_learning_rate * learning_rate_factor(step, 2 * steps, 0.0, TRAINING.schedule)
             for step in (steps - 1, 2 * steps - 1)]
    assert [row["learning_rate"] for row in trained.training[6:]] == pytest.approx(rates)


@pytest.mark.parametrize(("figure", "before", "after", "kept"), [
    ("ndcg@10", 0.5, 0.4, False), ("ndcg@10", 0.4, 0.5, True), ("loss", 0.4, 0.5, False), ("loss", 0.5, 0.4, True)])
def test_a_finetuning_at_the_end_is_kept_only_where_it_validates_better(inputs, accelerator, tmp_path, monkeypatch,
                                                                         figure, before, after, kept):
    figures, ends = iter([before, after]), []

    def validate(network, *_):
        ends.append(weights(network))
        return {figure: next(figures)}

    monkeypatch.setattr(joint_seq2seq, "validate_network", validate)
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, final_epochs=1),
                replace(TRAINING, epochs=2, early_stopping=figure))
    found = {name: torch.from_numpy(model.tensors[f"recommender.{name}"]) for name in ends[0]}
    assert [same(found, end) for end in ends] == [not kept, kept]


def test_test_targets_change_nothing(inputs, accelerator, tmp_path):
    test = replace(inputs.split.test, targets=inputs.split.test.histories.last(1))
    hidden = replace(inputs, split=replace(inputs.split, test=test),
                     examples={name: inputs.examples[name] for name in ("train", "valid")})
    one, two = (run(part, accelerator, tmp_path / name, replace(CONFIG, final_epochs=1), replace(TRAINING, epochs=2))
                for name, part in (("a", inputs), ("b", hidden)))
    assert one.training == two.training and one.tables == two.tables
    assert all(np.array_equal(value, two.tensors[name]) for name, value in one.tensors.items())


def test_a_killed_run_resumes_to_the_same_bytes(trained, inputs, accelerator, train_through_a_kill):
    train_through_a_kill(lambda folder: run(inputs, accelerator, folder), joint_seq2seq, "validate_network", at=3,
                         undisturbed=trained)


def test_training_both_sides_at_once_refreshes_codes_after_every_epoch(inputs, accelerator, tmp_path):
    together = run(inputs, accelerator, tmp_path, replace(CONFIG, alternate=False, final="none"))
    assert all({"changed_codes", "recommendation_loss", "quantization_loss", "valid_ndcg@10"} <= row.keys()
               for row in together.training)


def test_retraining_starts_from_scratch_on_the_final_codes(inputs, accelerator, tmp_path):
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, final="retrain"))
    assert [row["epoch"] for row in model.training] == list(range(1, 13))
    assert model.training[6]["train_loss"] > model.training[5]["train_loss"]


# --- 15: without alignment and with a frozen tokenizer it is the plain encoder-decoder ---


def test_without_alignment_and_with_a_frozen_tokenizer_it_is_the_plain_encoder_decoder_to_the_bit(
        inputs, accelerator, tmp_path):
    config = replace(CONFIG, cycle=0, sia_weight=0.0, psa_weight=0.0, suffix_size=0, final="none")
    joint = run(inputs, accelerator, tmp_path / "joint", config)
    plain = seq2seq.train(inputs, seq2seq.Config(**SIZES), TRAINING,
                          checkpoints=Checkpoints(tmp_path / "plain" / "run"),
                          accelerator=accelerator, seed=0)
    assert np.array_equal(joint.item_codes, inputs.identifiers.codes)
    assert all(np.array_equal(value, joint.tensors[f"recommender.{name}"]) for name, value in plain.tensors.items())
    shared = ("train_loss", "valid_ndcg@10", "valid_loss")
    one, two = ([[row[name] for name in shared] for row in model.training] for model in (joint, plain))
    assert one == two


@pytest.mark.slow
def test_it_learns_what_follows_what(inputs, accelerator, tmp_path):
    model = run(inputs, accelerator, tmp_path, replace(CONFIG, dropout=0.0, cycle=4, tokenizer_learning_rate=1e-3),
                replace(TRAINING, epochs=60, learning_rate=0.02, batch_size=16, validate_every=10))
    ranker = load_ranker(model, inputs, DECODE, accelerator=accelerator, seed=0)
    lists = ranker.rank(inputs.examples["test"], inputs.split.test).rankings[0].items
    assert np.mean([row[0] == target[0] for row, target in zip(lists, inputs.split.test.targets, strict=True)]) > 0.9


def test_the_state_map_has_a_point_for_each_user_and_each_target(trained):
    kinds = [row["kind"] for row in trained.tables["alignment"]]
    assert kinds.count("preference") == kinds.count("semantics") == 60
    assert all(np.isfinite([row["x"], row["y"]]).all() for row in trained.tables["alignment"])


def test_a_cycle_that_never_trains_the_recommender_is_refused(inputs, accelerator, tmp_path):
    with pytest.raises(ValueError, match="cycle is 1; expected 0, or 2 and more"):
        run(inputs, accelerator, tmp_path, replace(CONFIG, cycle=1))


def test_codes_without_suffixes_are_refused(inputs, accelerator, tmp_path):
    identifiers = replace(inputs.identifiers, config={**inputs.identifiers.config, "collisions": "none"})
    with pytest.raises(ValueError, match="set tokenizer.collisions=suffix"):
        run(replace(inputs, identifiers=identifiers), accelerator, tmp_path)
