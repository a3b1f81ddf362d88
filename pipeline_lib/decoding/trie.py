"""The trie of legal identifiers, as flat arrays: a step of all beams of all users is a handful of tensor operations.

Nodes of a level are numbered from 0 in the order of their prefixes, the root is the only node of level 0, and the
nodes of level L are the leaves. Shapes: N items, L levels, K codes of a level, C = K choices of a level (K + 1 where
identifiers vary in length: the last choice is the end).

Identifiers of different lengths are right-padded with -1. The end is then a choice of its own at every level, number
K, and one identifier may be the prefix of another. An identifier of full length L ends without a choice; append one
column of -1 and a level of size 0 where the model has to score the end of those too.

Source of the layout: Jacobson 1989, "Space-efficient Static Trees and Graphs": a bit an edge, and the number of edges
before each byte, so that the child of a node is found by counting bits within one byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.ragged import Ragged

BITS = 8


@dataclass(frozen=True)
class Trie:
    """Build it with `build_trie`.

    Args:
        level_sizes: K of each level.
        num_choices: C of each level.
        masks: a level ``(nodes, ceil(C / 8))`` uint8: the legal choices of each node, a bit each, the lowest first.
        ranks: a level ``(nodes, ceil(C / 8))`` int32: edges of this level before each byte.
        unpacked: ``(256,)`` int64: the 8 bytes of entry b are the bits of b as booleans.
        bit_counts: ``(256,)`` int64: how many bits of b are set.
        items: ``(N,)`` int64, the items of leaf 0, then of leaf 1, ...
        item_offsets: ``(leaves + 1,)`` int64, where the items of each leaf start.
    """

    level_sizes: tuple[int, ...]
    num_choices: tuple[int, ...]
    masks: tuple[Tensor, ...]
    ranks: tuple[Tensor, ...]
    unpacked: Tensor
    bit_counts: Tensor
    items: Tensor
    item_offsets: Tensor

    @property
    def num_levels(self) -> int:
        return len(self.level_sizes)

    @property
    def num_leaves(self) -> int:
        return len(self.item_offsets) - 1

    @property
    def has_ends(self) -> bool:
        """Whether identifiers differ in length, so that the last choice of a level is the end."""
        return self.num_choices != self.level_sizes

    @cached_property
    def items_of_leaves(self) -> Ragged:
        """A row of items a leaf, beside the tensors: lists are written out on the CPU."""
        return Ragged(self.items.cpu().numpy(), self.item_offsets.cpu().numpy())

    @property
    def device(self) -> torch.device:
        return self.items.device

    def num_nodes(self, level: int) -> int:
        return self.num_leaves if level == self.num_levels else len(self.masks[level])

    def allowed(self, level: int, nodes: Tensor) -> Tensor:
        """Which choices lead on to an item: ``(..., C)`` bool for nodes ``(...)`` int64 of a level."""
        packed = self.masks[level][nodes]
        return self.unpacked[packed.int()].view(torch.bool)[..., : self.num_choices[level]]

    def step(self, level: int, nodes: Tensor, choices: Tensor) -> Tensor:
        """Follow legal choices: nodes ``(...)`` of the next level. An illegal choice leads to an arbitrary node."""
        place = nodes * self.masks[level].shape[1] + (choices >> 3)
        below = self.masks[level].take(place) & ((1 << (choices & 7)) - 1)
        found = self.ranks[level].take(place) + self.bit_counts.take(below)
        return found.clamp_(max=self.num_nodes(level + 1) - 1)

    def find(self, codes: Tensor) -> Tensor:
        """The leaf of each identifier: ``(...)`` int64 for codes ``(..., L)``, -1 where no item has these codes."""
        if codes.shape[-1] != self.num_levels:
            raise ValueError(f"identifiers have {codes.shape[-1]} codes, but the trie has {self.num_levels} levels")
        nodes = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=self.device)
        legal = torch.ones_like(nodes, dtype=torch.bool)
        for level, size in enumerate(self.level_sizes):
            code = codes[..., level].long()
            legal &= (code < size) & (code >= (-1 if self.has_ends else 0))
            choice = torch.where(code < 0, size, code).clamp_(0, self.num_choices[level] - 1)
            legal &= (self.masks[level][nodes, choice >> 3] >> (choice & 7)) & 1 > 0
            nodes = self.step(level, nodes, choice)
        return torch.where(legal, nodes, -1)

    def leaf_items(self, leaf: int) -> Tensor:
        """The items that share an identifier, ``(n,)`` int64, in the order they were given."""
        start, stop = self.item_offsets[leaf : leaf + 2].tolist()
        return self.items[start:stop]


def build_trie(codes: np.ndarray, level_sizes: Sequence[int], device: torch.device | str = "cpu",
               items: np.ndarray | None = None, has_ends: bool | None = None) -> Trie:
    """Sort the identifiers once; every node is then a run of rows.

    Items that share an identifier share a leaf. Memory: ``nodes * C * 5 / 8`` bytes a level.

    Args:
        codes: ``(N, L)`` int, each row right-padded with -1.
        level_sizes: codes of each level.
        device: where the arrays go.
        items: ``(N,)`` int, the item of each row; its number by default. Give it to rank within a part of the items.
        has_ends: whether the end is a choice; by default, if any row is padded. Give it where the trie is of a part of
            the items, which may happen to be of one length.

    Raises:
        ValueError: if there is no item, shapes differ, a code does not fit its level, a code follows the end,
            or an identifier is empty.
    """
    codes = np.asarray(codes)
    sizes = tuple(int(size) for size in level_sizes)
    items = np.arange(len(codes)) if items is None else np.asarray(items)
    _check(codes, sizes, items)
    padded = bool((codes < 0).any())
    has_ends = padded if has_ends is None else has_ends or padded
    num_choices = tuple(size + has_ends for size in sizes)
    choices = np.where(codes < 0, sizes, codes).astype(np.int64)  # the end is the highest choice of its level

    order = _sorted_order(choices, num_choices)
    choices = choices[order]
    opens = np.zeros(len(choices), dtype=bool)  # rows where a new node starts
    opens[0] = True
    nodes, masks = np.zeros(len(choices), dtype=np.int64), []
    for level, width in enumerate(num_choices):
        num_nodes, edges = nodes[-1] + 1, nodes * width + choices[:, level]
        opens[1:] |= edges[1:] != edges[:-1]
        masks.append(_packed_masks(edges[opens], num_nodes, width))
        nodes = np.cumsum(opens) - 1
    starts = np.append(np.flatnonzero(opens), len(choices))
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")  # (256, 8)
    bit_counts = bits.sum(axis=1, dtype=np.int64)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Trie(sizes, num_choices, tuple(map(tensor, masks)),
                tuple(tensor(_edges_before(mask, bit_counts)) for mask in masks), tensor(bits.view(np.int64)[:, 0]),
                tensor(bit_counts), tensor(items[order].astype(np.int64)), tensor(starts))


def _sorted_order(choices: np.ndarray, num_choices: tuple[int, ...]) -> np.ndarray:
    """``(N,)`` int64, rows in lexicographic order, equal ones as given."""
    if np.prod([float(width) for width in num_choices]) >= 2.0**62:
        return np.lexsort(choices.T[::-1])
    flat = choices[:, 0].copy()
    for level in range(1, len(num_choices)):
        flat = flat * num_choices[level] + choices[:, level]
    return np.argsort(flat, kind="stable")


def _packed_masks(keys: np.ndarray, num_nodes: int, width: int) -> np.ndarray:
    """``(nodes, ceil(C / 8))`` uint8, from the rising edges of a level."""
    num_bytes = -(-width // BITS)
    masks = np.zeros(num_nodes * num_bytes, dtype=np.uint8)
    node, choice = np.divmod(keys, width)
    place = node * num_bytes + choice // BITS
    first = np.flatnonzero(np.diff(place, prepend=-1))
    masks[place[first]] = np.bitwise_or.reduceat(np.left_shift(1, choice % BITS).astype(np.uint8), first)
    return masks.reshape(num_nodes, num_bytes)


def _edges_before(masks: np.ndarray, bit_counts: np.ndarray) -> np.ndarray:
    """``(nodes, ceil(C / 8))`` int32; nodes of the next level are numbered in the order of their edges."""
    counts = bit_counts[masks.ravel()]
    return (np.cumsum(counts) - counts).astype(np.int32).reshape(masks.shape)


def _check(codes: np.ndarray, sizes: tuple[int, ...], items: np.ndarray) -> None:
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or not sizes:
        raise ValueError(f"identifiers have shape {codes.shape}, expected (items, {len(sizes)}) for the level sizes "
                         f"{sizes}")
    if not len(codes):
        raise ValueError("there is no item to build a trie of; is the set of candidate items empty?")
    if items.shape != (len(codes),):
        raise ValueError(f"items have shape {items.shape}, expected ({len(codes)},), one for each row of codes")
    for level, size in enumerate(sizes):
        column = codes[:, level]
        wrong = np.flatnonzero((column < -1) | (column >= size))
        if len(wrong):
            raise ValueError(f"item {items[wrong[0]]} has code {column[wrong[0]]} at level {level}, which does not fit "
                             f"a level of {size} codes; re-run quantize after changing level sizes")
    late = np.flatnonzero(((codes[:, :-1] < 0) & (codes[:, 1:] >= 0)).any(axis=1))
    if len(late):
        raise ValueError(f"item {items[late[0]]} has codes {codes[late[0]].tolist()}, with a code behind a -1; "
                         "pad shorter identifiers on the right")
    empty = np.flatnonzero(codes[:, 0] < 0)
    if len(empty):
        raise ValueError(f"item {items[empty[0]]} has no code at all; re-run quantize")
