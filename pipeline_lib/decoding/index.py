"""A database of item vectors: the nearest items of a user without scoring the whole catalogue, and saved as one file.

Shapes: B users, N items, D dimensions. Item numbers are those of the catalogue, in whatever order items were added.
Source: Douze et al. 2024, "The Faiss library"; IVF: Jegou et al. 2011, "Product Quantization for Nearest Neighbor
Search", section IV; HNSW: Malkov and Yashunin 2018, "Efficient and Robust Approximate Nearest Neighbor Search Using
Hierarchical Navigable Small World Graphs". Faiss is loaded only where an index is asked for.
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline_lib.decoding.grounding import SIMILARITIES
from pipeline_lib.params import INDEX_KINDS
from pipeline_lib.ragged import Ragged

if TYPE_CHECKING:
    import faiss

ITEMS_A_CELL = 39  # Faiss wants as many to learn the centre of a cell
SHARE_OF_CELLS = 4  # IVF looks into one cell of so many, and into FEWEST_CELLS at least
FEWEST_CELLS = 8
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 80, 128  # HNSW: links of an item, candidates kept in building and in searching


def build_index(items: np.ndarray, kind: str, similarity: str, numbers: np.ndarray | None = None) -> "faiss.Index":
    """An index over item vectors; equal inputs give an equal index.

    Args:
        items: ``(N, D)`` float32.
        kind: ``flat`` scores every item, so it is exact; ``ivf`` those in cells near the user, about sqrt(N) cells in
            all; ``hnsw`` walks a graph of neighbours.
        similarity: ``dot`` or ``cosine``, for which the index keeps normalised copies and normalises its queries.
        numbers: ``(N,)`` int, the item that each row is; None if rows are in the catalogue's order.

    Raises:
        ValueError: for an unknown kind or similarity, or without items.
    """
    for name, value, known in (("index", kind, INDEX_KINDS), ("similarity", similarity, SIMILARITIES)):
        if value not in known:
            raise ValueError(f"{name} is {value}; known: {', '.join(known)}")
    if not len(items):
        raise ValueError("there are no item vectors to index; expected one an item, re-run embed")
    import faiss

    items = np.ascontiguousarray(items, dtype=np.float32)
    index = _empty_index(kind, *items.shape)
    if similarity == "cosine":
        index = faiss.IndexPreTransform(faiss.NormalizationTransform(items.shape[1]), index)
    index = faiss.IndexIDMap(index)
    threads = faiss.omp_get_max_threads()
    if kind == "hnsw":
        faiss.omp_set_num_threads(1)  # the graph depends on who is linked first, and threads promise no order
    try:
        index.train(items)
        index.add_with_ids(items, (np.arange(len(items)) if numbers is None else numbers).astype(np.int64))
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def _empty_index(kind: str, num_items: int, dimensions: int) -> "faiss.Index":
    import faiss

    if kind == "ivf":
        cells = max(1, min(round(num_items**0.5), num_items // ITEMS_A_CELL))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(cells, max(FEWEST_CELLS, cells // SHARE_OF_CELLS))
        return index
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_WIDTH, SEARCH_WIDTH
        return index
    return faiss.IndexFlatIP(dimensions)


def search_index(index: "faiss.Index", queries: np.ndarray, top_k: int, excluded: Ragged | None = None,
                 order: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The ``top_k`` items of each user that the index finds, best first, no item twice.

    It is asked for ``top_k`` items and as many more as the longest row of ``excluded`` holds. A user gets fewer than
    ``top_k`` where fewer are left, or where an approximate index finds too few.

    Args:
        index: of `build_index`.
        queries: ``(B, D)`` float32.
        top_k: items wanted.
        excluded: B rows, the items that a user must not get.
        order: ``(N,)`` int, the rank of each item among those of equal score; None ranks them by their number.

    Returns:
        items: ``(B, k)`` int64, -1 behind a user's last item.
        scores: ``(B, k)`` float32, -inf there.

    Raises:
        ValueError: if the queries are not of the index's dimensions, or ``excluded`` is not of B rows.
    """
    if queries.shape[-1] != index.d:
        raise ValueError(f"users have {queries.shape[-1]} dimensions but the index has {index.d}; "
                         "were they embedded by the same source?")
    if excluded is not None and len(excluded) != len(queries):
        raise ValueError(f"excluded items are given for {len(excluded)} users, but there are {len(queries)} queries")
    longest = 0 if excluded is None else int(excluded.lengths.max(initial=0))
    wanted = min(top_k + longest, index.ntotal)
    scores, items = index.search(np.ascontiguousarray(queries, dtype=np.float32), wanted)
    dropped = items < 0
    if excluded is not None and len(excluded.values):
        dropped |= _is_excluded(items, excluded)
    items, scores = np.where(dropped, -1, items), np.where(dropped, -np.inf, scores).astype(np.float32)
    ranks = items if order is None else order[items]
    best = np.lexsort((ranks, -scores, dropped), axis=-1)[:, :top_k]
    return np.take_along_axis(items, best, axis=-1), np.take_along_axis(scores, best, axis=-1)


def _is_excluded(items: np.ndarray, excluded: Ragged) -> np.ndarray:
    """``(B, k)`` bool, from items ``(B, k)`` that may be -1."""
    span = max(int(items.max(initial=0)), int(excluded.values.max())) + 2
    pairs = np.arange(len(items))[:, None] * span + items + 1
    return np.isin(pairs, excluded.row_of_value * span + excluded.values + 1)


def index_recall(found: Ragged, exact: Ragged) -> float:
    """The share of a user's exact list that is in the list found, averaged over users; an empty list lacks nothing.

    Raises:
        ValueError: if the two are not of equally many users.
    """
    if len(found) != len(exact):
        raise ValueError(f"lists were found for {len(found)} users, but there are {len(exact)} exact ones")
    if not len(exact):
        return 1.0
    span = int(max(found.values.max(initial=0), exact.values.max(initial=0))) + 1
    hits = np.isin(exact.row_of_value * span + exact.values, found.row_of_value * span + found.values)
    missing = np.bincount(exact.row_of_value, ~hits, minlength=len(exact))
    return float(1 - np.mean(missing / np.maximum(exact.lengths, 1)))


def index_bytes(index: "faiss.Index") -> bytes:
    """The index in Faiss's own file format, which ``faiss.read_index`` reads as well."""
    import faiss

    return faiss.serialize_index(index).tobytes()


def index_from_bytes(saved: bytes) -> "faiss.Index":
    """What `index_bytes` saved.

    Raises:
        ValueError: if that is no index, or only a part of one.
    """
    import faiss

    try:
        return faiss.deserialize_index(np.frombuffer(saved, dtype=np.uint8))
    except RuntimeError as error:
        raise ValueError(f"{len(saved)} bytes are no index that Faiss {faiss.__version__} can read; "
                         "re-run decode") from error
