"""One mask step at 1,000,000 items: our flat trie against a Python dict trie that is walked row by row."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparison import report, seconds_in_turns
from pipeline_lib.decoding.trie import Trie, build_trie

NUM_ITEMS, CODEBOOK, ROWS = 1_000_000, 256, 256 * 20  # rows: 256 users, 20 beams each


def random_identifiers(num_items: int, levels: int, codebook: int,
                       rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """``(N, levels + 1)`` codes, the last of them a number among those that share the others, and the level sizes."""
    codes = rng.integers(0, codebook, (num_items, levels))
    order = np.lexsort(codes.T[::-1])
    new = np.r_[True, (codes[order][1:] != codes[order][:-1]).any(axis=1)]
    suffix = np.empty(num_items, dtype=np.int64)
    suffix[order] = np.arange(num_items) - np.flatnonzero(new)[np.cumsum(new) - 1]
    return np.c_[codes, suffix].astype(np.int32), (codebook,) * levels + (int(suffix.max()) + 1,)


def dict_trie(codes: list[list[int]]) -> dict:
    root: dict = {}
    for row in codes:
        node = root
        for code in row:
            node = node.setdefault(code, {})
    return root


def masks_by_dict(root: dict, prefixes: Tensor, size: int) -> Tensor:
    """What a prefix function and its logits processor do: walk the prefix, list the children, unmask them."""
    mask = torch.zeros(len(prefixes), size, dtype=torch.bool)
    for row, prefix in enumerate(prefixes.tolist()):
        node = root
        for code in prefix:
            node = node[code]
        mask[row, list(node)] = True
    return mask


def masks_by_trie(trie: Trie, parents: Tensor, prefixes: Tensor) -> Tensor:
    """Follow the code chosen last from the nodes that a beam search holds, then look the masks up."""
    level = prefixes.shape[1]
    return trie.allowed(level, trie.step(level - 1, parents, prefixes[:, -1]))


def main() -> None:
    rng = np.random.default_rng(0)
    codes, level_sizes = random_identifiers(NUM_ITEMS, 3, CODEBOOK, rng)
    trie, root = build_trie(codes, level_sizes), dict_trie(codes.tolist())
    chosen = torch.from_numpy(codes[rng.integers(0, NUM_ITEMS, ROWS)]).long()
    rows, equal, nodes = [], True, torch.zeros(ROWS, dtype=torch.int64)
    for level in range(1, len(level_sizes)):
        prefixes, parents = chosen[:, :level], nodes
        ours, theirs = seconds_in_turns(lambda: masks_by_trie(trie, parents, prefixes),
                                        lambda: masks_by_dict(root, prefixes, level_sizes[level]))
        equal &= torch.equal(masks_by_trie(trie, parents, prefixes), masks_by_dict(root, prefixes, level_sizes[level]))
        rows.append((f"after {level} codes", ours * 1e3, theirs * 1e3))
        nodes = trie.step(level - 1, nodes, prefixes[:, -1])
    ours, theirs = (sum(row[column] for row in rows) for column in (1, 2))
    report("trie", ours=ours, theirs=theirs, unit=f"ms for the masks of {ROWS} beams among {NUM_ITEMS} items",
           equal=equal, lower_is_better=True, rows=rows)


if __name__ == "__main__":
    main()
