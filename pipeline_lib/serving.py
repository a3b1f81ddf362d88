"""Users and items that no stage has seen, put beside those that the last run knows; nothing is trained.

A new user has a history: the embedding source gives it a vector, the tokenizer codes where it has codes of users. A new
item has a text, or users who took it: likewise.

Shapes: N items of the run, n new items, U users, D dimensions, L levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Catalogue, Identifiers, Model, RecommenderInputs, Split


@dataclass(frozen=True)
class Source:
    """An embedding source: its name, its module, and what it saved to embed new users and items."""

    name: str
    module: ModuleType
    tensors: Mapping[str, np.ndarray]
    model_json: Mapping[str, Any]

    def embed_items(self, catalogue: Catalogue, takers: Ragged) -> np.ndarray:
        """``(n, D)`` of new items.

        Raises:
            ValueError: if the source cannot, or has nothing to embed an item by.
        """
        if not hasattr(self.module, "embed_new_items"):
            raise ValueError(f"embedding source {self.name} cannot embed new items; re-run the pipeline with them among "
                             "the data (`sidflow items clear` forgets those that were added)")
        vectors = self.module.embed_new_items(catalogue, takers, self.tensors, self.model_json)
        nothing = ~np.isfinite(vectors).reshape(len(vectors), -1).all(axis=1)
        if nothing.any():
            raise ValueError(f"item {catalogue.item_ids[int(np.argmax(nothing))]}: embedding source {self.name} embeds "
                             "an item by the users who took it, and none is known; give them with --taken (`sidflow "
                             "items clear` forgets items that were added without)")
        return vectors.reshape(len(vectors), -1)


def with_new_items(inputs: RecommenderInputs, catalogue: Catalogue, takers: Ragged, source: Source, cf_source: Source,
                   tokenizer: ModuleType) -> RecommenderInputs:
    """The inputs with n items more, numbered from N: cold ones that nobody was trained on.

    Args:
        catalogue: the new items.
        takers: n rows of users.
        source, cf_source: of ``inputs.vectors`` and ``inputs.cf_vectors``.
        tokenizer: the module that made ``inputs.identifiers``.

    Raises:
        ValueError: as `Source.embed_items`, or if the tokenizer gives no codes to new items.
    """
    vectors = source.embed_items(catalogue, takers)
    cf_vectors = vectors
    if cf_source.name != source.name and hasattr(cf_source.module, "embed_new_items"):
        cf_vectors = cf_source.embed_items(catalogue, takers)
    elif cf_source.name != source.name:  # a cold item has no collaborative vector: that of an average item says least
        cf_vectors = np.repeat(inputs.cf_vectors.mean(axis=0, keepdims=True), len(catalogue), axis=0)
    return replace(inputs, split=_with_cold_items(inputs.split, len(catalogue)),
                   vectors=np.concatenate([inputs.vectors, vectors]),
                   cf_vectors=np.concatenate([inputs.cf_vectors, cf_vectors]),
                   identifiers=_with_codes(inputs.identifiers, vectors, catalogue, tokenizer))


def with_added_items(model: Model, vectors: np.ndarray, recommender: ModuleType) -> Model:
    """The model with what it keeps of each item, for new items with ``vectors (n, D)``.

    Raises:
        ValueError: if it keeps codes of its own, which no tokenizer gives to new items.
    """
    if model.item_vectors is not None:
        return recommender.add_items(model, vectors)
    if model.item_codes is not None:
        raise ValueError(f"recommender.kind={model.config['kind']} changed the codes of items while it was trained, "
                         "and gives none to new ones; re-run the pipeline with them among the data")
    return model


def with_users(inputs: RecommenderInputs, users: np.ndarray, histories: Ragged, source: Source,
               tokenizer: ModuleType) -> RecommenderInputs:
    """The inputs with n users, new or known, in the part ``test`` as their histories say.

    Args:
        users: ``(n,)``, indices that known users have, or nobody.
        histories: n rows of items, oldest first.
    """
    if not inputs.users or not len(users):
        return inputs
    vectors = source.module.embed_users(histories, source.tensors, source.model_json)  # (n, D)
    identifiers = inputs.identifiers
    if identifiers.user_codes:
        codes = tokenizer.encode_users(vectors, identifiers.tensors, identifiers.config)
        known = identifiers.user_codes["test"]
        identifiers = replace(identifiers, user_codes={"test": _with_rows(known, users, codes, -1)})
    return replace(inputs, users={"test": _with_rows(inputs.users["test"], users, vectors, np.nan)},
                   identifiers=identifiers)


def next_cases(split: Split, interactions: Ragged) -> Cases:
    """Every user with all that is known of him as history, test targets at the end; nobody without any item.

    Args:
        interactions: U rows of items, as ingest has them. The split may have left users out, or what lies before a
            cut; where it has as much, its order is taken, which a split file may say alone.
    """
    states = dict(zip(split.train_users.tolist(), split.train, strict=True))
    for cases in (split.valid, split.test):
        states |= {user: np.concatenate([history, targets]) for user, history, targets in
                   zip(cases.users.tolist(), cases.histories, cases.targets, strict=True)}
    states |= {user: row for user, row in enumerate(interactions) if len(row) > len(states.get(user, ()))}
    users = sorted(user for user, row in states.items() if len(row))
    return Cases(np.array(users, dtype=np.int32), Ragged.from_rows(states[user] for user in users),
                 Ragged.from_rows([[0]] * len(users)), np.isin(users, split.train_users))


def with_taken(cases: Cases, takers: Ragged, num_items: int) -> Cases:
    """The cases with what a user took of n added items, numbered from N, behind his history.

    Args:
        takers: n rows of users.
        num_items: N.
    """
    taken: dict[int, list[int]] = {}
    for place, users in enumerate(takers):
        for user in users.tolist():
            taken.setdefault(user, []).append(num_items + place)
    return replace(cases, histories=Ragged.from_rows([*history.tolist(), *taken.get(user, ())] for user, history in
                                                     zip(cases.users.tolist(), cases.histories, strict=True)))


def _with_rows(table: np.ndarray, places: np.ndarray, rows: np.ndarray, filler: float) -> np.ndarray:
    """``table (U, ...)``, made longer where it has to be, with ``rows (n, ...)`` at ``places (n,)``."""
    grown = np.full((max(len(table), int(places.max()) + 1), *table.shape[1:]), filler, dtype=table.dtype)
    grown[: len(table)] = table
    grown[places] = rows
    return grown


def _with_cold_items(split: Split, count: int) -> Split:
    return replace(split, train_count=np.pad(split.train_count, (0, count)), warm=np.pad(split.warm, (0, count)),
                   popularity_group=np.pad(split.popularity_group, (0, count), constant_values=5))


def _with_codes(identifiers: Identifiers, vectors: np.ndarray, catalogue: Catalogue,
                tokenizer: ModuleType) -> Identifiers:
    if identifiers.codes is None:
        return identifiers
    if not hasattr(tokenizer, "encode_items"):
        raise ValueError(f"tokenizer.kind={identifiers.config['kind']} gives no codes to new items, only to those it "
                         "was fitted on; re-run quantize with them among the data")
    codes = tokenizer.encode_items(vectors, identifiers.tensors, identifiers.config)
    if codes.shape[1] < identifiers.codes.shape[1]:
        codes = _with_suffixes(identifiers, codes, catalogue)
    return replace(identifiers, codes=np.concatenate([identifiers.codes, codes.astype(np.int32)]))


def _with_suffixes(identifiers: Identifiers, codes: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """``codes (n, L - 1)`` with the first suffix that no item of the same codes has.

    Raises:
        ValueError: if all suffixes that the recommender knows are taken.
    """
    taken = {tuple(row) for row in identifiers.codes.tolist()}
    rows = []
    for item_id, row in zip(catalogue.item_ids, codes.tolist(), strict=True):
        free = [(*row, suffix) for suffix in range(identifiers.level_sizes[-1]) if (*row, suffix) not in taken]
        if not free:
            raise ValueError(f"item {item_id}: its codes {row} and all {identifiers.level_sizes[-1]} suffixes are "
                             "taken; re-run quantize and finetune with it among the data")
        taken.add(free[0])
        rows.append(free[0])
    return np.array(rows, dtype=np.int32)
