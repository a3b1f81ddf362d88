"""Codewords kept apart: clusters of bounded size, and a loss that draws a codeword to others of its cluster only.

Shapes: B batch, L levels, K codewords per level, D dimensions, C clusters of a codebook.
Source: Wang et al. 2024, "Learnable Item Tokenization for Generative Recommendation" (LETTER), diversity
regularisation; clusters of bounded size: Bradley et al. 2000, "Constrained K-Means Clustering".
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipeline_lib.quantizers.codebook import squared_distances

ITERATIONS = 10


class CodewordDiversity:
    """The clusters of L codebooks, and the loss that follows from them.

    ``labels (L, K)``: each codeword's cluster, None before the first `update`.
    """

    def __init__(self, clusters: int, generator: torch.Generator) -> None:
        self.clusters, self.generator = clusters, generator
        self.labels: Tensor | None = None

    def update(self, codebooks: Tensor) -> None:
        """Cluster ``codebooks (L, K, D)`` anew, starting where the last clusters have moved to."""
        before = [None] * len(codebooks) if self.labels is None else self.labels
        self.labels = torch.stack([cluster_codewords(codebook, self.clusters, ITERATIONS, self.generator, labels)
                                   for codebook, labels in zip(codebooks, before, strict=True)])

    def loss(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        """`diversity_loss` of ``codes (B, L)`` in ``codebooks (L, K, D)`` with new positives, summed over levels."""
        return sum(diversity_loss(code, draw_positives(code, labels, self.generator), codebook)
                   for code, labels, codebook in zip(codes.unbind(dim=1), self.labels, codebooks, strict=True))


def diversity_loss(codes: Tensor, positives: Tensor, codebook: Tensor) -> Tensor:
    """Cross-entropy of ``positives (B,)`` among all codewords but the chosen one, by dot product, a mean over rows.

    Each codeword e_c that ``codes (B,)`` choose from ``codebook (K, D)`` is compared with all e_j, j != c; both sides
    receive gradients, the encoder none, as in the authors' code. LETTER, L_Div.
    """
    own = torch.eye(len(codebook), dtype=torch.bool, device=codebook.device)
    similarities = (codebook @ codebook.T).masked_fill(own, -torch.inf)  # (K, K): one row serves all items of a code
    return -F.log_softmax(similarities, dim=-1)[codes, positives].mean()


def draw_positives(codes: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """``(B,)``: for each of ``codes (B,)`` another codeword of its cluster, all of them equally likely.

    Args:
        labels: ``(K,)`` int64, each codeword's cluster; no cluster has one codeword alone.
        generator: on the CPU.
    """
    members = labels.argsort(stable=True)  # codewords, cluster by cluster
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    place = torch.empty_like(members)
    place[members] = torch.arange(len(members), device=labels.device) - starts[labels[members]]
    cluster = labels[codes]
    others = sizes[cluster] - 1
    steps = 1 + (torch.rand(len(codes), generator=generator).to(codes.device) * others).long()
    return members[starts[cluster] + (place[codes] + steps) % sizes[cluster]]


@torch.no_grad()
def cluster_codewords(codebook: Tensor, clusters: int, iterations: int, generator: torch.Generator,
                      labels: Tensor | None = None) -> Tensor:
    """K-means whose clusters hold from half to twice the average number of codewords, and at least two.

    Args:
        codebook: ``(K, D)``.
        clusters: C, at most K / 2.
        iterations: rounds of assignment and mean, fewer where nothing changes any more.
        generator: draws the first centres, on the CPU.
        labels: ``(K,)``, clusters to start from instead.

    Returns:
        ``(K,)`` int64, each codeword's cluster.

    Raises:
        ValueError: if the codewords are too few, or are not finite.
    """
    size = len(codebook)
    if size < 2 * clusters:
        raise ValueError(f"{size} codewords cannot make {clusters} clusters of two or more; set clusters to "
                         f"{size // 2} or less")
    if not codebook.isfinite().all():
        raise ValueError("a codebook has entries that are not finite, so it cannot be clustered; lower learning_rate")
    smallest, largest = max(2, size // (2 * clusters)), -(-2 * size // clusters)
    centres = codebook[torch.randperm(size, generator=generator)[:clusters].to(codebook.device)]
    if labels is not None:
        centres = _means(codebook, labels, clusters)
    for _ in range(iterations):
        before, labels = labels, assign_within_bounds(squared_distances(codebook, centres), smallest, largest)
        if before is not None and torch.equal(before, labels):
            break
        centres = _means(codebook, labels, clusters)
    return labels


def assign_within_bounds(distances: Tensor, smallest: int, largest: int) -> Tensor:
    """The assignment with the smallest sum of distances that gives no cluster too few or too many.

    Solved exactly: a cluster is ``largest`` places, of which the first ``smallest`` are so cheap that all are taken.

    Args:
        distances: ``(K, C)``, not negative; ``C * smallest <= K <= C * largest``.

    Returns:
        ``(K,)`` int64.
    """
    costs = distances.double().cpu().numpy()
    rebate = len(costs) * costs.max() + 1  # more than any assignment costs
    must = np.tile(np.arange(largest) < smallest, costs.shape[1])  # (C * largest,)
    chosen = linear_sum_assignment(np.repeat(costs, largest, axis=1) - rebate * must)[1]
    return torch.from_numpy(chosen // largest).to(distances.device)


def _means(codebook: Tensor, labels: Tensor, clusters: int) -> Tensor:
    sums = torch.zeros(clusters, codebook.shape[1], dtype=codebook.dtype, device=codebook.device)
    return sums.index_add_(0, labels, codebook) / torch.bincount(labels, minlength=clusters).unsqueeze(-1)
