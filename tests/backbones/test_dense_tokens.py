"""Of STORE's checklist: 1 (mask), 2 (content reaches tasks through placeholders alone), 3 (two short inputs equal one
under the mask), 4 (gradients) and 6 (neither batch nor padding matter)."""

import pytest
import torch
import torch.nn.functional as F

from pipeline_lib.backbones.causal_lm import FAMILIES, Backbone, Lora, add_lora, build_causal_lm
from pipeline_lib.backbones.dense_tokens import DenseTokenLM, cascaded_logits, cascaded_mask

V, M, END = 3, 2, 1  # dense tokens, kinds of task
WITHOUT = Lora(rank=0)


def make_network(family="opt", lora=WITHOUT):
    """Weights larger than a start's, so that a wrong position or key shows."""
    torch.manual_seed(0)
    model = build_causal_lm(Backbone(family=family, width=16, heads=2, feed_forward=24, max_positions=40), 40, 0, END)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return DenseTokenLM(add_lora(model, lora), V, M).eval()


def make_batch(seed=1):
    """Three texts, one of them empty; four tasks, two of them on the first text; rubbish in the padding."""
    generator = torch.Generator().manual_seed(seed)
    return {"content": torch.randint(2, 40, (3, 7), generator=generator), "content_lengths": torch.tensor([7, 4, 0]),
            "text": torch.tensor([0, 0, 1, 2]), "kind": torch.tensor([0, 1, 1, 0]),
            "answers": torch.randint(2, 40, (4, 5), generator=torch.Generator().manual_seed(2)),
            "answer_lengths": torch.tensor([5, 3, 1, 4])}


def logits_of(network, batch):
    return network.model.get_output_embeddings()(network.answer_states(batch))


def test_the_loss_is_the_cross_entropy_of_all_answer_tokens():
    network, batch = make_network(), make_batch()
    labels = torch.cat([row[:length] for row, length in zip(batch["answers"], batch["answer_lengths"])])
    loss, count = network(batch)
    torch.testing.assert_close(loss, F.cross_entropy(logits_of(network, batch), labels, reduction="sum"))
    assert count == len(labels) == 13


def test_the_mask_worked_by_hand():
    mask = cascaded_mask(torch.tensor([1]), 2, 2, torch.tensor([2]), 2)[0, 0].int()
    assert mask.tolist() == [
        # content  token  placeholder  task
        [1, 0,     0, 0,  0, 0,        0, 0],
        [1, 1,     0, 0,  0, 0,        0, 0],  # padding, which only itself sees
        [1, 0,     1, 0,  0, 0,        0, 0],
        [1, 0,     1, 1,  0, 0,        0, 0],
        [0, 0,     0, 0,  1, 0,        0, 0],
        [0, 0,     0, 0,  1, 1,        0, 0],
        [0, 0,     0, 0,  1, 1,        1, 0],
        [0, 0,     0, 0,  1, 1,        1, 1],
    ]  # fmt: skip


def test_attention_under_the_mask_is_exactly_zero_across_the_cut():
    network, batch = make_network(), make_batch()
    network.model.set_attn_implementation("eager")
    mask = cascaded_mask(batch["content_lengths"], 7, V, batch["answer_lengths"][:3], 5)
    lowest = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    words = torch.randn(3, mask.shape[-1], 16, generator=torch.Generator().manual_seed(3))
    found = network.model.base_model(inputs_embeds=words, attention_mask=lowest, output_attentions=True,
                                     position_ids=torch.arange(mask.shape[-1]).expand(3, -1)).attentions
    content, token, placeholder, task = slice(0, 7), slice(7, 10), slice(10, 13), slice(13, 18)
    for attention in found:  # (B, heads, T, T)
        assert (attention[..., content, 7:] == 0).all()
        assert (attention[..., token, 10:] == 0).all() and (attention[..., placeholder, :10] == 0).all()
        assert (attention[..., placeholder, 13:] == 0).all() and (attention[..., task, :10] == 0).all()
        assert (attention[1, :, token, 4:7] == 0).all()  # the padding of the second text
        assert (attention[0, :, token, content] > 0).all() and (attention[0, :, task, placeholder] > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_two_short_inputs_give_what_one_gives_under_the_mask(family):
    network, batch = make_network(family), make_batch()
    found = logits_of(network, batch)
    assert found.shape == (5 + 3 + 1 + 4, 40) and found.std() > 0.3
    torch.testing.assert_close(found, cascaded_logits(network, batch), atol=1e-5, rtol=1e-5)


def test_content_reaches_the_tasks_through_the_placeholders_alone():
    network, one, other = make_network(), make_batch(), make_batch(seed=5)
    dense = network.encode(one["content"], one["content_lengths"])[one["text"]]
    assert torch.equal(network.task_states(dense, one), network.task_states(dense, other))
    changed = logits_of(network, one) - logits_of(network, other)
    assert (changed[:9].abs().amax(dim=1) > 1e-3).all() and (changed[9:] == 0).all()  # the third text is empty


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_batch_nor_padding_changes_a_dense_token(family):
    network, batch = make_network(family), make_batch()
    dense = network.encode(batch["content"], batch["content_lengths"])
    assert dense.shape == (3, V, 16)
    alone = torch.cat([network.encode(ids[None, :length], torch.tensor([length]))
                       for ids, length in zip(batch["content"], batch["content_lengths"].tolist())])
    torch.testing.assert_close(dense, alone, atol=1e-5, rtol=1e-5)
    assert (dense[0] - dense[1]).abs().max() > 0.01


def test_a_dense_token_sees_those_before_it():
    network, batch = make_network(), make_batch()
    before = network.encode(batch["content"], batch["content_lengths"])
    with torch.no_grad():
        network.dense_tokens[1] += torch.randn(16)
    after = network.encode(batch["content"], batch["content_lengths"])
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert ((after[:, 1:] - before[:, 1:]).abs().amax(dim=-1) > 1e-4).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_tokens_and_adapters_and_nothing_that_is_frozen(family):
    network = make_network(family, Lora(rank=2, dropout=0.0))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)  # while it is zero, lora_A has no gradient
    loss, _ = network(make_batch())
    loss.backward()
    assert (network.dense_tokens.grad.norm(dim=1) > 0).all() and (network.task_tokens.grad.norm(dim=1) > 0).all()
    for name, weight in network.model.named_parameters():
        assert (weight.grad.norm() > 0) if "lora" in name else weight.grad is None, name


def test_dense_tokens_learn_from_the_tasks_alone():
    """Were the states detached on their way into the placeholders, there would be no gradient at all."""
    network, batch = make_network(), make_batch()
    gradient = torch.autograd.grad(network(batch)[0], network.dense_tokens)[0]
    step = torch.randn(V, 16, generator=torch.Generator().manual_seed(8)) * 1e-3
    losses = []
    with torch.no_grad():
        for sign in (-1, 1):
            network.dense_tokens += sign * step
            losses.append(network.double()({**batch})[0])
            network.dense_tokens -= sign * step
    assert float(losses[1] - losses[0]) == pytest.approx(2 * float((gradient * step).sum()), rel=0.05)


def test_the_loss_is_that_of_answer_tokens_one_task_at_a_time():
    network, batch = make_network(), make_batch()
    loss, count = network(batch)
    assert count == batch["answer_lengths"].sum() == 13
    expected = 0.0
    for text, kind, answer, length in zip(*(batch[name] for name in ("text", "kind", "answers", "answer_lengths"))):
        dense = network.encode(batch["content"][text, None], batch["content_lengths"][text, None])[0]
        inputs = torch.cat([dense, network.task_tokens[kind, None], network.words(answer[: length - 1])])
        found = network.model(inputs_embeds=inputs[None]).logits[0, V:].log_softmax(dim=-1)
        expected -= found[torch.arange(length), answer[:length]].sum()
    torch.testing.assert_close(loss, expected)


def test_a_batch_without_tasks_touches_all_that_trains():
    network, batch = make_network(), make_batch()
    empty = {name: values[:0] for name, values in batch.items()}
    loss, count = network(empty)
    loss.backward()
    assert count == 0 and loss == 0
    assert all(weight.grad is not None and (weight.grad == 0).all() for weight in network.parameters())


def test_greedy_answers_follow_the_likeliest_token_and_stop_at_the_end():
    network, batch = make_network("gpt2"), make_batch()
    dense, kinds = network.encode(batch["content"], batch["content_lengths"]), torch.tensor([0, 1, 0])
    said = network.answer(dense, kinds, END, 6)
    end = int(said[1, 2])  # let a token that was said be the end
    stopped = network.answer(dense, kinds, end, 6)
    for row in range(3):
        ids = [int(token) for token in said[row]]
        inputs = torch.cat([dense[row], network.task_tokens[kinds[row], None], network.words(said[row, :-1])])
        assert network.model(inputs_embeds=inputs[None]).logits[0, V:].argmax(dim=-1).tolist() == ids
        cut = ids[: ids.index(end)] if end in ids else ids
        assert stopped[row, : len(cut)].tolist() == cut and (stopped[row, len(cut) :] == end).all()
