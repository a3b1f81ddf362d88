import pytest
import torch
import torch.nn.functional as F

from pipeline_lib.backbones.causal_transformer import CausalTransformer


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return CausalTransformer(width=8, layers=2, heads=2, feed_forward=16, dropout=0.5, initializer_std=0.3).eval()


@pytest.fixture
def states():
    return torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))  # (B, T, D)


def reference_block(block, states):
    """One block for one sequence ``(T, D)``, a position and a head at a time."""
    query, key, value = block.query_key_value(states).split(states.shape[1], dim=1)
    size, attended = states.shape[1] // block.heads, torch.zeros_like(states)
    for place in range(len(states)):
        for head in (slice(start, start + size) for start in range(0, states.shape[1], size)):
            weights = torch.softmax(key[: place + 1, head] @ query[place, head] / size**0.5, dim=0)
            attended[place, head] = weights @ value[: place + 1, head]
    states = block.attention_norm(states + block.output(attended))
    return block.feed_forward_norm(states + block.narrow(F.gelu(block.wide(states))))


def test_it_equals_a_plain_loop_over_positions_and_heads(transformer, states):
    expected = states[1]
    for block in transformer.blocks:
        expected = reference_block(block, expected)
    torch.testing.assert_close(transformer(states)[1], expected)


def test_with_weights_of_zero_a_block_is_the_norm_of_its_input(states):
    transformer = CausalTransformer(8, 1, 2, 16, dropout=0.0, initializer_std=0.0)
    torch.testing.assert_close(transformer(states), F.layer_norm(states, (8,)), atol=1e-4, rtol=1e-4)


def test_a_later_position_changes_no_earlier_one(transformer, states):
    changed = states.clone()
    changed[:, 4] += 1.0
    before, after = transformer(states), transformer(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(dim=-1).any()


def test_padding_behind_a_sequence_changes_nothing(transformer, states):
    torch.testing.assert_close(transformer(states)[:, :3], transformer(states[:, :3]))


def test_sequences_of_a_batch_do_not_see_each_other(transformer, states):
    torch.testing.assert_close(transformer(states)[2:], transformer(states[2:]))


def test_dropout_acts_in_training_alone(transformer, states):
    assert torch.equal(transformer(states), transformer(states))
    transformer.train()
    assert not torch.equal(transformer(states), transformer(states))


def test_an_empty_batch_gives_an_empty_result(transformer):
    assert transformer(torch.zeros(0, 1, 8)).shape == (0, 1, 8)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="width is 8 but there are 3 heads"):
        CausalTransformer(8, 1, 3, 16, 0.0)
