import numpy as np
import pytest
import torch

from pipeline_lib.backbones.graph import BipartiteGraph, mean_of_layers

USERS, ITEMS, DIMENSIONS, LAYERS = 30, 20, 5, 3


def random_pairs(seed=0, count=120):
    generator = np.random.default_rng(seed)
    return generator.integers(0, USERS - 2, count), generator.integers(0, ITEMS - 3, count)  # the last ones stay alone


def random_vectors(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, DIMENSIONS, generator=generator, dtype=torch.float64, requires_grad=True)


def dense_adjacency(users, items):
    """D^-1/2 A D^-1/2 of He et al. 2020, equation 8, users before items, written out."""
    adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    adjacency[users, USERS + items] = adjacency[USERS + items, users] = 1.0
    scale = adjacency.sum(dim=1).clamp(min=1).rsqrt()
    return scale[:, None] * adjacency * scale


def sparse_mean(graph, users, items):
    return torch.cat([mean_of_layers(layers) for layers in graph.layers(users, items, LAYERS)])


def dense_mean(adjacency, users, items):
    layers = [torch.cat([users, items])]
    for _ in range(LAYERS):
        layers.append(adjacency @ layers[-1])
    return torch.stack(layers).mean(dim=0)


def test_a_layer_worked_by_hand():
    graph = BipartiteGraph(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, 2)  # user 0 took both items, user 1 item 1
    users, items = graph.propagate(torch.tensor([[1.0], [10.0]]), torch.tensor([[100.0], [1000.0]]))
    root = 2**0.5
    assert users[:, 0].tolist() == pytest.approx([100 / root + 1000 / 2, 1000 / root])
    assert items[:, 0].tolist() == pytest.approx([1 / root, 1 / 2 + 10 / root])


def test_two_nodes_swap_their_vectors_at_each_layer():
    graph = BipartiteGraph(np.array([0]), np.array([0]), 1, 1)
    users, items = graph.layers(torch.tensor([[2.0]]), torch.tensor([[6.0]]), 3)
    assert [layer.item() for layer in users] == [2, 6, 2, 6]
    assert mean_of_layers(users).item() == mean_of_layers(items).item() == 4


def test_no_layer_leaves_the_vectors_as_they_are():
    graph = BipartiteGraph(*random_pairs(), USERS, ITEMS)
    users, items = random_vectors(USERS, 1), random_vectors(ITEMS, 2)
    for given, layers in zip((users, items), graph.layers(users, items, 0)):
        assert torch.equal(mean_of_layers(layers), given)


def test_a_node_without_edges_keeps_its_share_of_layer_0():
    graph = BipartiteGraph(*random_pairs(), USERS, ITEMS)
    users, items = random_vectors(USERS, 1), random_vectors(ITEMS, 2)
    mean = sparse_mean(graph.double(), users, items)
    torch.testing.assert_close(mean[USERS - 2 : USERS], users[-2:] / (LAYERS + 1))
    torch.testing.assert_close(mean[-3:], items[-3:] / (LAYERS + 1))


def test_a_repeated_interaction_is_one_edge():
    users, items = random_pairs()
    once, twice = (BipartiteGraph(np.tile(users, times), np.tile(items, times), USERS, ITEMS) for times in (1, 2))
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, twice.get_buffer(name)), name
    assert once.item_degrees.sum() == len(set(zip(users.tolist(), items.tolist())))


def test_sparse_propagation_and_its_gradient_equal_the_dense_ones():
    pairs = random_pairs()
    adjacency, graph = dense_adjacency(*pairs), BipartiteGraph(*pairs, USERS, ITEMS).double()
    direction = random_vectors(USERS + ITEMS, 3).detach()
    found = []
    for mean in (lambda users, items: sparse_mean(graph, users, items),
                 lambda users, items: dense_mean(adjacency, users, items)):
        users, items = random_vectors(USERS, 1), random_vectors(ITEMS, 2)
        output = mean(users, items)
        (output.tanh() * direction).sum().backward()
        found.append((output.detach(), users.grad, items.grad))
    for sparse, dense in zip(*found):
        torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-6)  # the edges' weights are rounded to float32


def test_the_graph_moves_with_a_model_but_is_no_part_of_its_state():
    graph = BipartiteGraph(*random_pairs(), USERS, ITEMS)
    assert not graph.state_dict()
    assert all(buffer.device.type == "meta" for buffer in graph.to("meta").buffers())


def test_an_item_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="name items 1 to 7, but there are 5"):
        BipartiteGraph(np.array([0, 0]), np.array([1, 7]), 1, 5)
