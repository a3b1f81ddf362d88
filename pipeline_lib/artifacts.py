"""Every file that stages exchange: its columns, how it is written, read and checked (docs/design.md, section 5).

Readers check columns, dtypes, ranges and lengths; a killed stage leaves nothing half-written (`plain_files`).
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.columns import LIST, list_array, ragged_column, refuse, table_of
from pipeline_lib.plain_files import (
    read_array, read_json, read_table, read_tensors, require, write_csv, write_json, write_table, write_tensors,
    writing_folder,
)
from pipeline_lib.records import (
    Candidates, Cases, Catalogue, Embedding, Examples, Identifiers, Model, Rankings, RecommenderInputs, Split,
    TokenizerInputs,
)

INTERACTIONS = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64()),
                          ("rating", pa.float32())])
ITEMS = pa.schema([("item", pa.int32()), ("item_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
USERS = pa.schema([("user", pa.int32()), ("user_id", pa.string())])
TRAIN = pa.schema([("user", pa.int32()), ("items", LIST)])
CASES = pa.schema([("user", pa.int32()), ("history", LIST), ("targets", LIST), ("seen", pa.bool_())])
SPLIT_ITEMS = pa.schema([("item", pa.int32()), ("train_count", pa.int32()), ("warm", pa.bool_()),
                         ("popularity_group", pa.int8())])
ITEM_EXAMPLES = pa.schema([("user", pa.int32()), ("history", LIST), ("targets", LIST)])
CODE_EXAMPLES = pa.schema([*ITEM_EXAMPLES, ("input_ids", LIST), ("labels", LIST), ("task", pa.string())])
CANDIDATES = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("label", pa.int8())])
SCORES = pa.schema([*CANDIDATES, ("score", pa.float32())])
PREDICTIONS = pa.schema([("user", pa.int32()), ("candidates", pa.string()), ("items", LIST),
                         ("scores", pa.list_(pa.float32()))])


# --- ingest ---------------------------------------------------------------------------------------------------------


def write_ingest(interactions_path: Path, items_path: Path, users_path: Path,
                 interactions: pa.Table, items: pa.Table, users: pa.Table) -> None:
    write_table(interactions_path, interactions, INTERACTIONS)
    attributes = [items.schema.field(name) for name in items.column_names if name.startswith("attr_")]
    write_table(items_path, items, pa.schema([*ITEMS, *attributes]))
    write_table(users_path, users, USERS)


def read_interactions(path: Path) -> pa.Table:
    table = read_table(path, INTERACTIONS)
    for name in ("user", "item"):
        refuse(path, table[name].to_numpy() < 0, name, "0 or more")
    return table


def read_user_ids(path: Path) -> list[str]:
    table = read_table(path, USERS)
    refuse(path, table["user"].to_numpy() != np.arange(len(table)), "user", "the row's own number")
    return table["user_id"].to_pylist()


def read_catalogue(path: Path) -> Catalogue:
    table = read_table(path, ITEMS)
    refuse(path, table["item"].to_numpy() != np.arange(len(table)), "item", "the row's own number")
    return catalogue_of(table)


def catalogue_of(table: pa.Table) -> Catalogue:
    attributes = {name.removeprefix("attr_"): table[name].to_pylist()
                  for name in table.column_names if name.startswith("attr_")}
    return Catalogue(table["item_id"].to_pylist(), table["title"].to_pylist(), table["text"].to_pylist(), attributes)


# --- split ----------------------------------------------------------------------------------------------------------


def write_split(folder: Path, split: Split) -> None:
    with writing_folder(folder) as place:
        write_table(place / "train.parquet", table_of(TRAIN, split.train_users, split.train), TRAIN)
        for name, cases in (("valid", split.valid), ("test", split.test)):
            table = table_of(CASES, cases.users, cases.histories, cases.targets, cases.seen)
            write_table(place / f"{name}.parquet", table, CASES)
        items = table_of(SPLIT_ITEMS, np.arange(split.num_items), split.train_count, split.warm, split.popularity_group)
        write_table(place / "items.parquet", items, SPLIT_ITEMS)
        for name, candidates in split.candidates.items():
            table = table_of(CANDIDATES, candidates.users, candidates.items, candidates.labels)
            write_table(place / f"{name}_candidates.parquet", table, CANDIDATES)


def read_split(folder: Path) -> Split:
    items = read_table(folder / "items.parquet", SPLIT_ITEMS)
    refuse(folder / "items.parquet", items["item"].to_numpy() != np.arange(len(items)), "item", "the row's own number")
    refuse(folder / "items.parquet", items["train_count"].to_numpy() < 0, "train_count", "0 or more")
    group = items["popularity_group"].to_numpy()
    refuse(folder / "items.parquet", (group < 1) | (group > 5), "popularity_group", "from 1 to 5")
    train = read_table(folder / "train.parquet", TRAIN)
    refuse(folder / "train.parquet", train["user"].to_numpy() < 0, "user", "0 or more")
    histories = ragged_column(train["items"], folder / "train.parquet", "items", len(items))
    paths = {name: folder / f"{name}_candidates.parquet" for name in ("train", "valid", "test")}
    return Split(train["user"].to_numpy(), histories,
                 read_cases(folder / "valid.parquet", len(items)), read_cases(folder / "test.parquet", len(items)),
                 items["train_count"].to_numpy(), items["warm"].to_numpy(), items["popularity_group"].to_numpy(),
                 {name: read_candidates(path, len(items)) for name, path in paths.items() if path.exists()})


def read_candidates(path: Path, num_items: int) -> Candidates:
    return Candidates(*_labelled(path, read_table(path, CANDIDATES), num_items))


def _labelled(path: Path, table: pa.Table, num_items: int) -> tuple[np.ndarray, ...]:
    users, items, labels = (table[name].to_numpy() for name in CANDIDATES.names)
    refuse(path, users < 0, "user", "0 or more")
    refuse(path, (items < 0) | (items >= num_items), "item", f"one of the {num_items} items")
    refuse(path, (labels < 0) | (labels > 1), "label", "0 or 1")
    return users, items, labels


def read_cases(path: Path, num_items: int) -> Cases:
    table = read_table(path, CASES)
    refuse(path, table["user"].to_numpy() < 0, "user", "0 or more")
    targets = ragged_column(table["targets"], path, "targets", num_items)
    refuse(path, targets.lengths == 0, "targets", "at least one item a user")
    return Cases(table["user"].to_numpy(), ragged_column(table["history"], path, "history", num_items), targets,
                 table["seen"].to_numpy())


# --- embed ----------------------------------------------------------------------------------------------------------


def write_embedding(folder: Path, embedding: Embedding) -> None:
    with writing_folder(folder) as place:
        np.save(place / "items.npy", embedding.items.astype(np.float32), allow_pickle=False)
        for name in ("users_valid", "users_test"):
            if getattr(embedding, name) is not None:
                np.save(place / f"{name}.npy", getattr(embedding, name).astype(np.float32), allow_pickle=False)
        write_json(place / "meta.json", embedding.meta)
        if embedding.model or embedding.model_json:
            write_tensors(place / "model" / "model.safetensors", embedding.model)
            write_json(place / "model" / "model.json", embedding.model_json)


def read_item_vectors(folder: Path, num_items: int) -> np.ndarray:
    """``(N, D)`` or ``(N, v, D)`` float32, finite."""
    path = folder / "items.npy"
    vectors = read_array(path, np.float32)
    _check_rows(path, vectors, num_items)
    refuse(path, ~np.isfinite(vectors).reshape(len(vectors), -1).all(axis=1), "vector", "finite numbers")
    return vectors


def _read_both_vectors(vectors: Path, cf_vectors: Path, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """`read_item_vectors` of two folders; one array where both are the same."""
    read = read_item_vectors(vectors, num_items)
    return read, read if cf_vectors == vectors else read_item_vectors(cf_vectors, num_items)


def read_embedding_model(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What embeds a new item or user: tensors and JSON of the folder model/, empty for a source that needs neither."""
    if not (folder / "model").exists():
        return {}, {}
    return read_tensors(folder / "model" / "model.safetensors"), read_json(folder / "model" / "model.json")


def read_user_vectors(folder: Path) -> dict[str, np.ndarray]:
    """``valid`` and ``test`` -> ``(U, D)`` float32, NaN for users without a vector; empty where none is modelled."""
    paths = {name: folder / f"users_{name}.npy" for name in ("valid", "test")}
    vectors = {name: read_array(path, np.float32) for name, path in paths.items() if path.exists()}
    for name, array in vectors.items():
        _check_rows(paths[name], array)
    return vectors


def _check_rows(path: Path, array: np.ndarray, num_items: int | None = None) -> None:
    """Refuse what is not rows of numbers, one an item where ``num_items`` is given."""
    if array.ndim < 2 or num_items not in (None, len(array)):
        wanted = "rows of numbers" if num_items is None else f"a row of numbers for each of {num_items} items"
        raise ValueError(f"{path}: shape {array.shape}, expected {wanted}; re-run the stage that makes it")


# --- tokens ---------------------------------------------------------------------------------------------------------


def read_tokenizer_inputs(vectors: Path, cf_vectors: Path, split: Path, items: Path) -> TokenizerInputs:
    catalogue, held = read_catalogue(items), read_split(split)
    return TokenizerInputs(*_read_both_vectors(vectors, cf_vectors, len(catalogue)), held.train, catalogue.attributes,
                           read_user_vectors(vectors), held.train_users)


def write_identifiers(folder: Path, identifiers: Identifiers) -> None:
    with writing_folder(folder) as place:
        if identifiers.codes is not None:
            write_codes(place / "item_codes.npy", identifiers.codes, identifiers.level_sizes)
        write_tensors(place / "tokenizer.safetensors", identifiers.tensors)
        for part, codes in identifiers.user_codes.items():
            np.save(place / f"user_codes_{part}.npy", np.ascontiguousarray(codes, dtype=np.int32), allow_pickle=False)
        write_json(place / "config.json", {**identifiers.config, "level_sizes": list(identifiers.level_sizes)})
        if identifiers.training:
            write_csv(place / "training.csv", identifiers.training)


def write_codes(path: Path, codes: np.ndarray, level_sizes: Sequence[int]) -> None:
    _check_codes(path, codes, level_sizes)
    np.save(path, np.ascontiguousarray(codes, dtype=np.int32), allow_pickle=False)


def read_identifiers(folder: Path) -> Identifiers:
    sizes, config = _read_level_sizes(folder)
    codes = None
    if sizes:
        codes = read_array(folder / "item_codes.npy", np.int32)
        _check_codes(folder / "item_codes.npy", codes, sizes)
    users = {part: read_array(folder / f"user_codes_{part}.npy", np.int32) for part in ("valid", "test")
             if (folder / f"user_codes_{part}.npy").exists()}
    return Identifiers(codes, sizes, read_tensors(folder / "tokenizer.safetensors"), config, user_codes=users)


def _read_level_sizes(folder: Path) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Codes of each level, none for identifiers without codes, and what else the configuration holds."""
    config = read_json(folder / "config.json")
    if "level_sizes" not in config:
        raise ValueError(f"{folder / 'config.json'}: level_sizes is missing; re-run quantize")
    return tuple(config.pop("level_sizes")), config


def _check_codes(path: Path, codes: np.ndarray, level_sizes: Sequence[int]) -> None:
    if codes.ndim != 2 or codes.shape[1] != len(level_sizes):
        raise ValueError(f"{path}: codes of shape {codes.shape}, but {len(level_sizes)} level sizes; re-run quantize")
    for level, size in enumerate(level_sizes):
        lowest, highest = codes[:, level].min(initial=0), codes[:, level].max(initial=0)
        if lowest < -1 or highest >= size:
            raise ValueError(f"{path}: code {highest if highest >= size else lowest} at level {level} does not fit a "
                             f"codebook of {size}; re-run quantize after changing its size")
    refuse(path, ((codes[:, :-1] < 0) & (codes[:, 1:] >= 0)).any(axis=1), "the identifier",
            "codes with -1 only behind them")


# --- sequences ------------------------------------------------------------------------------------------------------


def write_sequences(folder: Path, parts: Mapping[str, Examples], vocabulary: Mapping[str, Any],
                    catalogue: Path | None = None) -> None:
    """``catalogue``: items.parquet, copied for recommenders that read the items' texts."""
    with writing_folder(folder) as place:
        if catalogue is not None:
            require(catalogue)
            shutil.copyfile(catalogue, place / "items.parquet")
        for name, examples in parts.items():
            columns = {"user": examples.users, "history": examples.histories, "targets": examples.targets,
                       "input_ids": examples.input_ids, "labels": examples.labels, "task": examples.tasks}
            schema = pa.schema([column for column in CODE_EXAMPLES if columns[column.name] is not None])
            write_table(place / f"{name}.parquet", table_of(schema, *(columns[name] for name in schema.names)), schema)
        write_json(place / "vocabulary.json", vocabulary)


def read_examples(path: Path, num_items: int | None = None) -> Examples:
    """``num_items``: of the catalogue, which histories and targets are held against."""
    table = read_table(path, ITEM_EXAMPLES)
    schema = pa.schema([column for column in CODE_EXAMPLES if column.name in table.column_names])
    table = read_table(path, schema)
    lists = {name: ragged_column(table[name], path, name, num_items if name in ("history", "targets") else None)
             for name in schema.names if name not in ("user", "task")}
    return Examples(table["user"].to_numpy(), lists["history"], lists["targets"], lists.get("input_ids"),
                    lists.get("labels"), table["task"].to_pylist() if "task" in schema.names else None)


def read_recommender_inputs(sequences: Path, tokens: Path, vectors: Path, cf_vectors: Path, split: Path,
                            parts: Sequence[str]) -> RecommenderInputs:
    held, texts = read_split(split), sequences / "items.parquet"
    identifiers = read_identifiers(tokens)
    if identifiers.codes is not None:
        _check_rows(tokens / "item_codes.npy", identifiers.codes, held.num_items)
    return RecommenderInputs({name: read_examples(sequences / f"{name}.parquet", held.num_items) for name in parts},
                             read_json(sequences / "vocabulary.json"), identifiers, held,
                             *(read.reshape(held.num_items, -1)
                               for read in _read_both_vectors(vectors, cf_vectors, held.num_items)),
                             read_user_vectors(vectors), *read_embedding_model(vectors),
                             read_catalogue(texts) if texts.exists() else None)


# --- model ----------------------------------------------------------------------------------------------------------


def write_model(folder: Path, model: Model) -> None:
    with writing_folder(folder) as place:
        write_tensors(place / "model.safetensors", model.tensors)
        write_json(place / "config.json", model.config)
        for name, rows in {"training": model.training, **model.tables}.items():
            write_csv(place / f"{name}.csv", rows)
        for name in ("item_codes", "item_vectors"):
            if getattr(model, name) is not None:
                np.save(place / f"{name}.npy", getattr(model, name), allow_pickle=False)


def read_model(folder: Path) -> Model:
    """Everything but the tables."""
    extra = {name: read_array(folder / f"{name}.npy", dtype) if (folder / f"{name}.npy").exists() else None
             for name, dtype in (("item_codes", np.int32), ("item_vectors", np.float32))}
    for name, array in extra.items():
        if array is not None:
            _check_rows(folder / f"{name}.npy", array)
    return Model(read_tensors(folder / "model.safetensors"), read_json(folder / "config.json"), **extra)


def read_final_codes(model: Path, tokens: Path, num_items: int) -> np.ndarray | None:
    """``(N, L)``: codes that training changed win over those of quantize; None for identifiers without codes."""
    path = next((folder / "item_codes.npy" for folder in (model, tokens) if (folder / "item_codes.npy").exists()), None)
    if path is None:
        return None
    codes = read_array(path, np.int32)
    _check_rows(path, codes, num_items)
    if (tokens / "config.json").exists():
        sizes, _ = _read_level_sizes(tokens)
        if path.parent == model:  # the last level tells colliding items apart, of which training may leave more
            sizes = (*sizes[:-1], max(sizes[-1], int(codes[:, -1].max(initial=0)) + 1))
        _check_codes(path, codes, sizes)
    return codes


def write_figures(folder: Path, images: Mapping[str, bytes]) -> None:
    """Replace a folder by images, by file name."""
    with writing_folder(folder) as place:
        for name, image in images.items():
            (place / name).write_bytes(image)


# --- predictions ----------------------------------------------------------------------------------------------------


def write_decoded(folder: Path, rankings: Mapping[str, Sequence[Rankings]], counts: Mapping[str, Any],
                  index: bytes | None = None) -> None:
    """``index``: a faiss index over the items, which answers with item numbers, for items.faiss."""
    with writing_folder(folder) as place:
        if index is not None:
            (place / "items.faiss").write_bytes(index)
        for part, lists in rankings.items():
            write_predictions(place / f"{part}.parquet", lists)
        write_json(place / "decode.json", counts)


def write_predictions(path: Path, rankings: Sequence[Rankings]) -> None:
    tables = []
    for ranking in rankings:
        scores = pa.ListArray.from_arrays(pa.array(ranking.items.offsets, pa.int32()),
                                          pa.array(ranking.scores, pa.float32()))
        tables.append(pa.Table.from_arrays([pa.array(ranking.users, pa.int32()),
                                            pa.array([ranking.candidates] * len(ranking.users), pa.string()),
                                            list_array(ranking.items), scores], schema=PREDICTIONS))
    write_table(path, pa.concat_tables(tables), PREDICTIONS)


def write_scored(folder: Path, candidates: Mapping[str, Candidates], scores: Mapping[str, np.ndarray],
                 counts: Mapping[str, Any]) -> None:
    """Each part's candidates with their scores ``(m,)``, in place of ranked lists."""
    with writing_folder(folder) as place:
        for part, asked in candidates.items():
            table = table_of(SCORES, asked.users, asked.items, asked.labels, scores[part].astype(np.float32))
            write_table(place / f"{part}_scores.parquet", table, SCORES)
        write_json(place / "decode.json", counts)


def read_scores(path: Path, num_items: int) -> tuple[np.ndarray, ...]:
    """Users, items, labels and scores ``(m,)`` of scored candidates."""
    table = read_table(path, SCORES)
    scores = table["score"].to_numpy()
    refuse(path, np.isnan(scores), "score", "a number")
    return *_labelled(path, table, num_items), scores


def read_predictions(path: Path, num_items: int) -> dict[str, Rankings]:
    """Rankings by candidate set.

    Raises:
        ValueError: if the run scored given candidates and ranked no items, or a list holds an item twice.
    """
    if not path.exists() and path.with_name(f"{path.stem}_scores.parquet").exists():
        raise ValueError(f"{path}: the last run scored given candidates (decode.kind=score) and ranked no items; "
                         "reports/metrics.json has its figures")
    table = read_table(path, PREDICTIONS)
    rankings = {}
    for name in table["candidates"].unique().to_pylist():
        part = table.filter(pc.equal(table["candidates"], name)).combine_chunks()
        items = ragged_column(part["items"], path, "items", num_items)
        scores = part["scores"].combine_chunks().flatten().to_numpy()
        if len(scores) != len(items.values):
            raise ValueError(f"{path}: {len(items.values)} items but {len(scores)} scores (candidates={name}); re-run "
                             "decode")
        wrong = np.isnan(scores)
        wrong[1:] |= (np.diff(scores) > 0) & (np.diff(items.row_of_value) == 0)
        if wrong.any():
            raise ValueError(f"{path}: row {items.row_of_value[int(np.argmax(wrong))]} of candidates={name} is not best "
                             "first, or has a score that is no number; re-run decode")
        pairs = items.row_of_value * num_items + items.values
        if len(np.unique(pairs)) < len(pairs):
            raise ValueError(f"{path}: a list of candidates={name} holds an item twice; re-run decode")
        rankings[name] = Rankings(part["user"].to_numpy(), items, scores, name)
    return rankings
