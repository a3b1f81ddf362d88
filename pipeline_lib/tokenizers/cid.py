"""Identifiers from clusters of items that the same users have: a path of clusters, and a number within the last (CID).

Shapes: N items, L levels. Identifiers vary in length, as some clusters are cut more often than others. No tensors.
Source: Hua et al. 2023, "How to Index Item IDs for Recommendation Foundation Models" (collaborative indexing).

Cost: memory and time a step follow the pairs of items that some user has both of (a user with n items adds up to
n^2 / 2), not N^2. 12,000 items with 834,000 such pairs take 3 seconds on one thread and 0.13 GB.
"""

import logging
import warnings
from dataclasses import asdict, dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import SpectralClustering

from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import PositiveInt, TwoOrMore
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import unique_identifiers

LARGEST_SHARE = 0.9  # a split that leaves more than this in one cluster is none: paths would grow without telling much

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """``clusters`` a step; a cluster of more than ``cluster_size`` items is cut again."""

    clusters: TwoOrMore = 20
    cluster_size: PositiveInt = 100


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Cut the co-occurrence graph of training histories until every cluster is small."""
    affinity = cooccurrences(inputs.train, len(inputs.vectors))
    paths = cluster_paths(affinity, config.clusters, config.cluster_size, numpy_generator(seed, "cid"))
    codes = Ragged.from_rows(paths).padded(-1)
    log.info("%d items in %d pairs, identifiers of at most %d codes", len(codes), affinity.nnz // 2, codes.shape[1])
    return unique_identifiers(codes, tuple((codes.max(axis=0) + 1).tolist()), collisions=collisions,
                              config={"kind": "cid", **asdict(config)})


def cooccurrences(train: Ragged, num_items: int) -> csr_matrix:
    """``(N, N)`` float64: how many users have both items, 0 on the diagonal."""
    has = csr_matrix((np.ones(len(train.values)), (train.row_of_value, train.values)), shape=(len(train), num_items))
    has.data[:] = 1  # building it added up the items that a user has more than once
    pairs = (has.T @ has).tocsr()
    pairs.setdiag(0)
    pairs.eliminate_zeros()
    return pairs


def cluster_paths(affinity: csr_matrix, clusters: int, cluster_size: int,
                  generator: np.random.Generator) -> list[list[int]]:
    """Codes of each item: its cluster at each step, then its number within the last, in random order (the order of the
    catalogue may come from held-out data).

    Args:
        affinity: ``(N, N)``, symmetric, not negative.
        clusters: of each step; items without a neighbour among those of the step form one more.
        cluster_size: a cluster of at most this many items is cut no further.
    """
    paths: list[list[int]] = [[] for _ in range(affinity.shape[0])]
    pending = [np.arange(affinity.shape[0])]
    while pending:
        items = pending.pop()
        if len(items) <= cluster_size:
            parts = generator.permutation(items)[:, None]  # one item each
        else:
            parts = _cut(affinity, items, clusters, cluster_size, generator)
            pending += parts
        for number, part in enumerate(parts):
            for item in part:
                paths[item].append(number)
    return paths


def _cut(affinity: csr_matrix, items: np.ndarray, clusters: int, cluster_size: int,
         generator: np.random.Generator) -> list[np.ndarray]:
    """At least two parts of ``items (n,)``, each smaller than n."""
    inside = affinity[items][:, items]
    linked = np.diff(inside.indptr) > 0
    parts = [generator.permutation(items[~linked])] if not linked.all() else []
    if linked.any():
        label = _spectral_labels(inside[linked][:, linked], clusters, generator)
        parts = [items[linked][label == number] for number in np.unique(label)] + parts
    if max(map(len, parts)) <= LARGEST_SHARE * len(items):
        return parts
    runs = min(clusters, -(-len(items) // cluster_size))
    return np.array_split(np.concatenate(parts), runs)  # what was found together stays together, but for the borders


def _spectral_labels(affinity: csr_matrix, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """``(n,)`` int: spectral clusters. LOBPCG only multiplies by the sparse matrix; ARPACK would factorise it."""
    seed = int(generator.integers(2**31))
    if affinity.shape[0] <= clusters:
        return np.arange(affinity.shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # several components, or no full convergence: any cut will do
        return SpectralClustering(clusters, affinity="precomputed", assign_labels="cluster_qr", eigen_solver="lobpcg",
                                  random_state=seed).fit_predict(affinity)
