"""What stages hand to each other, as the library holds it: frozen records of arrays; `artifacts` writes and reads them.

Shapes: N items, U users, n rows, D dimensions, L levels; more at each record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline_lib.ragged import Ragged


@dataclass(frozen=True)
class Catalogue:
    """Items in index order. ``attributes`` maps a name to one str, or one list of str, an item."""

    item_ids: list[str]
    titles: list[str]
    texts: list[str]
    attributes: Mapping[str, list] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True)
class Cases:
    """Users to rank for: ``users (n,)`` int32, ``histories`` and ``targets`` of n rows, ``seen (n,)`` bool."""

    users: np.ndarray
    histories: Ragged
    targets: Ragged
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Cases":
        return Cases(self.users[rows], self.histories.take(rows), self.targets.take(rows), self.seen[rows])


@dataclass(frozen=True)
class Candidates:
    """Items to score, by user, then item: ``users``, ``items (m,)`` int32, ``labels (m,)`` int8, 1 wanted and 0 not."""

    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Candidates":
        return Candidates(self.users[rows], self.items[rows], self.labels[rows])


@dataclass(frozen=True)
class Split:
    """What may be trained on, and what is held out.

    ``train_users (n,)`` int32 with ``train`` of n rows, in order; per item ``train_count (N,)`` int32,
    ``warm (N,)`` bool and ``popularity_group (N,)`` int8, 1 the most popular to 5; ``candidates``: ``train``, ``valid``
    and ``test`` -> what is scored, empty where nothing is. ``filter_history``: whether the lists of held-out users
    leave out their history, by which epochs are chosen, too; it stands in no file, but is ``decode.filter_history``.
    """

    train_users: np.ndarray
    train: Ragged
    valid: Cases
    test: Cases
    train_count: np.ndarray
    warm: np.ndarray
    popularity_group: np.ndarray
    candidates: Mapping[str, Candidates] = field(default_factory=dict)
    filter_history: bool = True

    @property
    def num_items(self) -> int:
        return len(self.train_count)

    @property
    def held_out(self) -> dict[str, Cases]:
        """``test`` and, unless it was refitted on, ``valid`` -> the users to rank for."""
        return {name: cases for name, cases in (("test", self.test), ("valid", self.valid)) if len(cases)}

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """``warm`` and ``cold`` items as masks ``(N,)``, to rank among them.

        A cold item is held out for somebody but not trained on; one that a given split does not list at all is neither.
        """
        held = np.zeros(self.num_items, dtype=bool)
        for cases in (self.valid, self.test):
            held[cases.histories.values] = held[cases.targets.values] = True
        return {"warm": self.warm, "cold": held & ~self.warm}


@dataclass(frozen=True)
class Embedding:
    """``items (N, D)`` or ``(N, v, D)`` float32; ``users_valid``, ``users_test (U, D)`` where users are modelled.

    ``meta`` goes to meta.json; ``model`` and ``model_json``, into the folder model/, embed a new item or user later.
    """

    items: np.ndarray
    meta: Mapping[str, Any]
    users_valid: np.ndarray | None = None
    users_test: np.ndarray | None = None
    model: Mapping[str, np.ndarray] = field(default_factory=dict)
    model_json: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenizerInputs:
    """What a tokenizer may look at: ``vectors`` and ``cf_vectors (N, D)`` float32, training histories, attributes.

    ``users``: ``valid`` and ``test`` -> ``(U, D)``, the users of the source of ``vectors``, where it models them;
    ``train_users (n,)``: whose histories ``train`` holds.
    """

    vectors: np.ndarray
    cf_vectors: np.ndarray
    train: Ragged
    attributes: Mapping[str, list]
    users: Mapping[str, np.ndarray] = field(default_factory=dict)
    train_users: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))


@dataclass(frozen=True)
class Identifiers:
    """``codes (N, L)`` int32, right-padded with -1, level l below ``level_sizes[l]``; None where items have none.

    ``tensors`` goes to tokenizer.safetensors, ``config`` to config.json; ``reconstruction_error`` is the mean squared
    error a vector dimension, None where nothing is reconstructed; ``training`` has a mapping an epoch, for
    training.csv. ``user_codes``: ``valid`` and ``test`` -> ``(U, K)`` int32 where users have codes too, a row of -1 for
    a user without.
    """

    codes: np.ndarray | None
    level_sizes: tuple[int, ...]
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    reconstruction_error: float | None = None
    training: Sequence[Mapping[str, float]] = ()
    user_codes: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """One example a row; for code readers ``input_ids`` and ``labels`` are token ids, ``tasks`` name what is asked."""

    users: np.ndarray
    histories: Ragged
    targets: Ragged
    input_ids: Ragged | None = None
    labels: Ragged | None = None
    tasks: list[str] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Examples":
        ragged = (None if part is None else part.take(rows)
                  for part in (self.histories, self.targets, self.input_ids, self.labels))
        return Examples(self.users[rows], *ragged, None if self.tasks is None else [self.tasks[row] for row in rows])


@dataclass(frozen=True)
class RecommenderInputs:
    """What a recommender may be trained on and rank with: ``examples`` by part, ``vectors`` and ``cf_vectors (N, D)``,
    vectors of several positions side by side.

    ``users``: ``valid`` and ``test`` -> ``(U, D)``, the users of the source of ``vectors``, where it models them;
    ``embedder`` and ``embedder_json``: that source's model, which a recommender may start from, empty where it has
    none; ``catalogue``: the items' texts, for recommenders that read them.
    """

    examples: Mapping[str, Examples]
    vocabulary: Mapping[str, Any]
    identifiers: Identifiers
    split: Split
    vectors: np.ndarray
    cf_vectors: np.ndarray
    users: Mapping[str, np.ndarray] = field(default_factory=dict)
    embedder: Mapping[str, np.ndarray] = field(default_factory=dict)
    embedder_json: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Catalogue | None = None


@dataclass(frozen=True)
class Model:
    """A trained recommender: ``tensors`` to model.safetensors, ``config`` to config.json, ``training`` a row an epoch.

    ``item_codes (N, L)`` int32 and ``item_vectors (N, ...)`` float32 where the recommender changes or makes them.
    ``tables``: a name -> rows, for ``<name>.csv``.
    """

    tensors: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    training: Sequence[Mapping[str, float]] = ()
    item_codes: np.ndarray | None = None
    item_vectors: np.ndarray | None = None
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rankings:
    """Ranked lists of n users under one candidate set, best first: ``items``, and as many ``scores`` a row."""

    users: np.ndarray
    items: Ragged
    scores: np.ndarray
    candidates: str = "all"
