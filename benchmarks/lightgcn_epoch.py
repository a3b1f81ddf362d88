"""One training epoch of LightGCN: sparse propagation against the dense normalised adjacency.

Run with ``python -m benchmarks.lightgcn_epoch``. 4,000 users and 4,000 items, about 10 interactions a user, items
drawn with a long tail; 64 dimensions, 3 layers. The table also shows `torch.sparse.mm` with a CSR matrix, the other
sparse product at hand. Equal: the loss of a batch and the gradient of the item vectors, within rounding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparison import report, seconds_in_turns
from pipeline_lib.backbones.graph import BipartiteGraph
from pipeline_lib.embeddings.pairwise import PairwiseModel, with_negatives

USERS, ITEMS, DIMENSIONS, LAYERS, BATCH = 4000, 4000, 64, 3, 8192


class MatrixGraph(torch.nn.Module):
    """What a plain reading of the paper gives: (U + N, U + N) times (U + N, D) at each layer, dense or sparse."""

    def __init__(self, pairs: np.ndarray, sparse: bool) -> None:
        super().__init__()
        users, items = torch.from_numpy(pairs[:, 0]), torch.from_numpy(pairs[:, 1]) + USERS
        adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS)
        adjacency[users, items] = adjacency[items, users] = 1.0
        scale = adjacency.sum(dim=1).clamp(min=1).rsqrt()
        matrix = scale[:, None] * adjacency * scale
        self.matrix = matrix.to_sparse_csr() if sparse else matrix

    def layers(self, users: Tensor, items: Tensor, num_layers: int) -> tuple[list[Tensor], list[Tensor]]:
        layers = [torch.cat([users, items])]
        for _ in range(num_layers):
            layers.append(self.matrix @ layers[-1])
        return [layer[:USERS] for layer in layers], [layer[USERS:] for layer in layers]


def main() -> None:
    pairs = interactions(np.random.default_rng(0))
    triples = np.random.default_rng(1).permutation(with_negatives(pairs, ITEMS, np.random.default_rng(2)))
    batches = [torch.from_numpy(triples[at : at + BATCH]) for at in range(0, len(triples), BATCH)]
    graphs = BipartiteGraph(*pairs.T, USERS, ITEMS), MatrixGraph(pairs, sparse=False), MatrixGraph(pairs, sparse=True)
    ours, dense, sparse = (make_model(graph) for graph in graphs)
    seconds = seconds_in_turns(lambda: epoch(ours, batches), lambda: epoch(dense, batches), repeats=2)
    beside = seconds_in_turns(lambda: epoch(ours, batches), lambda: epoch(sparse, batches), repeats=2)
    first = step(ours, batches[0])
    equal = all(same(first, step(model, batches[0])) for model in (dense, sparse))
    report("lightgcn_epoch", ours=len(pairs) / seconds[0], theirs=len(pairs) / seconds[1], unit="interactions/s",
           equal=equal, rows=[("torch.sparse.mm", len(pairs) / beside[0], len(pairs) / beside[1])])


def interactions(generator: np.random.Generator) -> np.ndarray:
    """``(M, 2)`` int64 of user and item, sorted, no pair twice."""
    users = np.repeat(np.arange(USERS), 5 + generator.geometric(1 / 5, USERS))
    items = np.floor(ITEMS * generator.random(len(users)) ** 2).astype(np.int64)
    return np.stack(np.divmod(np.unique(users * ITEMS + items), ITEMS), axis=1)


def make_model(graph: torch.nn.Module) -> PairwiseModel:
    torch.manual_seed(0)
    return PairwiseModel(USERS, ITEMS, DIMENSIONS, 1e-4, graph, LAYERS)


def epoch(model: PairwiseModel, batches: Sequence[Tensor]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)  # the same weights, again and again
    for triples in batches:
        step(model, triples)
        optimizer.step()
        optimizer.zero_grad()


def step(model: PairwiseModel, triples: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the item vectors."""
    model.zero_grad()
    loss, count = model({"triples": triples})
    (loss / count).backward()
    return loss.detach(), model.items.grad


def same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    largest = theirs[1].abs().max()
    return bool(torch.isclose(ours[0], theirs[0], rtol=1e-5) and (ours[1] - theirs[1]).abs().max() < 1e-5 * largest)


if __name__ == "__main__":
    main()
