"""`sidflow recommend`, `export` and `items`: the last run's artifacts rank for anybody, new items included."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from pipeline_lib import artifacts, plain_files, records
from pipeline_lib.added_items import catalogue_and_takers, read_added_items, with_appended, write_added_items
from pipeline_lib.command import listed
from pipeline_lib.params import Params
from pipeline_lib.ragged import Ragged
from pipeline_lib.variants import EMBEDDINGS, embedding_for, load_params, recommender_for, sequences_for, tokenizer_for

items_app = typer.Typer(no_args_is_help=True,
                        help="Items that came after the last run: they are recommended without training.")
PROJECT, PARAMS = Path(), Path("params.yaml")
INTERACTIONS, ITEMS, USERS = (Path(f"data/ingest/{name}.parquet") for name in ("interactions", "items", "users"))
ADDED = Path("data/added/items.parquet")
SPLIT, TOKENS, SEQUENCES, EMBED = (Path("data/split"), Path("data/tokens"), Path("data/sequences"), Path("data/embed"))
MODEL, PREDICTIONS = Path("data/model"), Path("data/predictions")

Lists = tuple[np.ndarray, np.ndarray]  # items and scores, best first
Added = tuple[records.Catalogue, Ragged]  # items that came after the run, and the users who took each


def recommend(user: Annotated[str | None, typer.Option(help="A user's id in the raw data.")] = None,
              history: Annotated[list[str] | None,
                                 typer.Option(help="Item ids, oldest first, separated by commas, or each with --history of "
                                                   "its own.")] = None,
              k: Annotated[int, typer.Option("-k", help="How many items.")] = 10, params: Path = PARAMS) -> None:
    """Recommend to a user of the test set, or to anybody with a history of known items, from the last run."""
    if (user is None) == (not history):
        raise ValueError("give either --user or --history")
    if k < 1:
        raise ValueError(f"-k {k}: ask for 1 or more items")
    _require_one_run()
    catalogue, config = artifacts.read_catalogue(ITEMS), _ranking_params(params)
    added = read_added_items(ADDED, plain_files.files_digest(ITEMS, USERS))
    if user is not None:
        items, scores = _of_user(user, catalogue, added, k, config)
    else:
        items, scores = _of_history(history, catalogue, added, k, config)
    for rank, (item, score) in enumerate(zip(items[:k], scores[:k], strict=True), start=1):
        place, known = (item, catalogue) if item < len(catalogue) else (item - len(catalogue), added[0])
        new = "" if known is catalogue else "  (new)"
        typer.echo(f"{rank:3d}  {score:8.3f}  {known.item_ids[place]}  {known.titles[place]}{new}")
    there = len(catalogue) + len(added[0])
    if len(items) < min(k, there):
        typer.echo(f"only {len(items)} of {k}: the lists of the last run have no more; set decode.top_k and "
                   "decode.beam_size", err=True)
    elif len(items) < k:
        typer.echo(f"only {len(items)} of {k}: there are {there} items", err=True)


def export(codes: Annotated[Path | None, typer.Option(help="A .csv or .parquet file for item_id and codes.")] = None,
           recommendations: Annotated[Path | None, typer.Option(help="The same for what to show every user next, after "
                                                                     "all that is known of him.")] = None,
           test_lists: Annotated[Path | None, typer.Option(help="The same for the lists that evaluate scored, made "
                                                                "before the test targets were known.")] = None,
           k: Annotated[int, typer.Option("-k", min=1, help="Items a user.")] = 10, params: Path = PARAMS) -> None:
    """Write identifiers and recommendations of the last run under the raw ids, as CSV or Parquet."""
    from pipeline_lib.reporting.export import check_format, codes_table, recommendations_table, write_export

    files = [path for path in (codes, recommendations, test_lists) if path is not None]
    if not files:
        raise ValueError("nothing to export: give --codes FILE, --recommendations FILE or --test-lists FILE")
    for path in files:
        check_format(path)
    if len({path.resolve() for path in files}) < len(files):
        raise ValueError(f"{files[0]}: one file was named for several tables; name one for each")
    _require_one_run()
    catalogue = artifacts.read_catalogue(ITEMS)
    config = _ranking_params(params) if recommendations or test_lists else load_params(params)
    user_ids, added = artifacts.read_user_ids(USERS), read_added_items(ADDED, plain_files.files_digest(ITEMS, USERS))
    tables: dict[Path, tuple[pa.Table, str]] = {}  # all are made before one is written
    if codes is not None:
        made = artifacts.read_final_codes(MODEL, TOKENS, len(catalogue))
        if made is None:
            raise ValueError("--codes: items of the last run have no codes (tokenizer.kind none, or sets of vectors)")
        if len(added[0]):
            made = _with_added(_inputs(config), artifacts.read_model(MODEL), added, config)[0].identifiers.codes
        tables[codes] = codes_table([*catalogue.item_ids, *added[0].item_ids], made), f"{len(made)} items"
    if test_lists is not None:
        rankings = artifacts.read_predictions(PREDICTIONS / "test.parquet", len(catalogue))["all"]
        table = recommendations_table(user_ids, catalogue.item_ids, rankings, k)
        tables[test_lists] = table, f"{_users_of(table)} of {len(user_ids)} users; others have no test case"
    if recommendations is not None:
        rankings = _of_everybody(len(user_ids), len(catalogue), added, k, config)
        table = recommendations_table(user_ids, [*catalogue.item_ids, *added[0].item_ids], rankings, k)
        tables[recommendations] = table, f"{_users_of(table)} of {len(user_ids)} users, after all that is known of them"
    for path, (table, what) in tables.items():
        write_export(path, table)
        typer.echo(f"wrote {path}: {what}")


@items_app.command("add")
def add_items(file: Path,
              taken: Annotated[Path | None, typer.Option(help="user_id,item_id: who took them already.")] = None,
              params: Path = PARAMS) -> None:
    """Add the items of a CSV, TSV or Parquet file (item_id and attributes) to those that `sidflow recommend` ranks.

    Columns are named as in the raw data (ingest.columns).
    """
    from pipeline_lib.interactions.new_items import read_new_items

    _require_one_run()
    config, catalogue = _ranking_params(params), artifacts.read_catalogue(ITEMS)
    ingest = config.ingest
    items, takers = read_new_items(file, taken, catalogue.item_ids, artifacts.read_user_ids(USERS),
                                   columns=ingest.columns, lists=ingest.lists, title=ingest.title, text=ingest.text,
                                   attributes={name: isinstance(values[0], list)
                                               for name, values in catalogue.attributes.items()})
    with plain_files.locked_folder(ADDED.parent):
        digest = plain_files.files_digest(ITEMS, USERS)
        before, after = read_added_items(ADDED, digest), len(items)
        twice = set(before[0].item_ids) & set(items["item_id"].to_pylist())
        if twice:
            raise ValueError(f"{file}: item {min(twice)} was added before; `sidflow items clear` forgets all added items")
        table = with_appended(ADDED, items, takers, digest)
        added = catalogue_and_takers(ADDED, table)
        _with_added(_inputs(config), artifacts.read_model(MODEL), added, config)  # can they be ranked?
        write_added_items(ADDED, table)
    typer.echo(f"added {after} items, {len(before[0]) + after} in all; `sidflow recommend` ranks them from now on. "
               "To train on them, add them to the raw data and run `dvc repro`")


@items_app.command("list")
def list_items() -> None:
    """The items that were added since ingest."""
    catalogue, takers = read_added_items(ADDED, plain_files.files_digest(ITEMS, USERS))
    for item_id, title, users in zip(catalogue.item_ids, catalogue.titles, takers.lengths, strict=True):
        typer.echo(f"{item_id}  {title}  ({users} users)")


@items_app.command("clear")
def clear_items() -> None:
    """Forget all added items."""
    ADDED.unlink(missing_ok=True)


def _of_user(user: str, catalogue: records.Catalogue, added: Added, k: int, config: Params) -> Lists:
    """The list that decode made; with new items, one made now."""
    ids = artifacts.read_user_ids(USERS)
    if user not in ids:
        raise ValueError(f"--user {user}: no such user in {USERS}; ids look like {ids[0]}; for anybody else give "
                         "--history")
    rankings = artifacts.read_predictions(PREDICTIONS / "test.parquet", len(catalogue))["all"]
    rows = np.flatnonzero(rankings.users == ids.index(user))
    if not len(rows):
        raise ValueError(f"--user {user}: not among the test users (too short a history?); give --history instead")
    if len(added[0]):
        from pipeline_lib.serving import with_taken

        cases = artifacts.read_split(SPLIT).test
        asked = with_taken(cases.take(np.flatnonzero(cases.users == ids.index(user))), added[1], len(catalogue))
        return _list(_rank(asked, added, k, config))
    start, stop = rankings.items.offsets[rows[0] : rows[0] + 2]
    return rankings.items.values[start:stop], rankings.scores[start:stop]


def _of_history(given: list[str], catalogue: records.Catalogue, added: Added, k: int, config: Params) -> Lists:
    """Rank for a user whom no stage has seen; an id that has commas or outer blanks is one where it is given alone."""
    known = {item_id: item for item, item_id in enumerate([*catalogue.item_ids, *added[0].item_ids])}
    item_ids = [item_id for value in given for item_id in ([value] if value in known else listed([value]))]
    unknown = [item_id for item_id in item_ids if item_id not in known]
    if unknown:
        raise ValueError(f"--history: item {unknown[0]} is not in {ITEMS}; ids look like {catalogue.item_ids[0]}")
    new_user = len(artifacts.read_user_ids(USERS))
    cases = records.Cases(np.array([new_user], dtype=np.int32), Ragged.from_rows([[known[i] for i in item_ids]]),
                            Ragged.from_rows([[0]]), np.array([False]))
    return _list(_rank(cases, added, k, config))


def _of_everybody(num_users: int, num_items: int, added: Added, k: int, config: Params) -> records.Rankings:
    """Rank for all users behind all of their items."""
    from pipeline_lib.serving import next_cases, with_taken

    table = artifacts.read_interactions(INTERACTIONS)
    everything = Ragged(table["item"].to_numpy(), np.searchsorted(table["user"].to_numpy(), np.arange(num_users + 1)))
    cases = with_taken(next_cases(artifacts.read_split(SPLIT), everything), added[1], num_items)
    return _rank(cases, added, k, config, moved_on=not EMBEDDINGS[config.tokenizer.source].fitted)


def _list(rankings: records.Rankings) -> Lists:
    return rankings.items.values, rankings.scores


def _rank(cases: records.Cases, added: Added, k: int, config: Params, *,
          moved_on: bool = False) -> records.Rankings:
    """Rank for users, known or new, among the items of the run and the added ones.

    Args:
        moved_on: whether users that embed knows have other histories now, which give them other vectors.
    """
    from pipeline_lib.serving import with_users
    from pipeline_lib.training.device import make_accelerator

    inputs = _inputs(config)
    if inputs.users:
        rows = np.flatnonzero(moved_on | _unknown(cases.users, inputs.users["test"]))
        histories = Ragged.from_rows(row[row < inputs.split.num_items] for row in cases.histories.take(rows))
        if len(rows) and not histories.lengths.all():
            raise ValueError(f"embedding source {config.tokenizer.source} knows a user by items of the last run alone; "
                             "name one of these among the history, too")
        inputs = with_users(inputs, cases.users[rows], histories, _source(config.tokenizer.source),
                            tokenizer_for(config.tokenizer.kind))
    inputs, model = _with_added(inputs, artifacts.read_model(MODEL), added, config)
    decode = replace(config.decode, top_k=k, beam_size=max(config.decode.beam_size, k), candidate_sets=False,
                     index=None)
    examples = sequences_for(config.recommender.kind).examples_of_cases(cases, inputs.identifiers, config.sequences)
    ranker = recommender_for(config.recommender.kind).load_ranker(
        model, inputs, decode, accelerator=make_accelerator(config.training.precision), seed=config.seed)
    return ranker.rank(examples, cases).rankings[0]


def _inputs(config: Params) -> records.RecommenderInputs:
    """What decode reads, without examples."""
    return artifacts.read_recommender_inputs(SEQUENCES, TOKENS, EMBED / config.tokenizer.source,
                                             EMBED / config.tokenizer.cf_source, SPLIT, ())


def _with_added(inputs: records.RecommenderInputs, model: records.Model, added: Added,
                config: Params) -> tuple[records.RecommenderInputs, records.Model]:
    """Inputs and model with the added items.

    Raises:
        ValueError: if the pipeline at hand cannot rank them.
    """
    from pipeline_lib.serving import with_added_items, with_new_items

    if not len(added[0]):
        return inputs, model
    sources = [_source(name) for name in (config.tokenizer.source, config.tokenizer.cf_source)]
    inputs = with_new_items(inputs, *added, *sources, tokenizer_for(config.tokenizer.kind))
    vectors = inputs.vectors[-len(added[0]):]
    return inputs, with_added_items(model, vectors, recommender_for(config.recommender.kind))


def _require_one_run() -> None:
    """Refuse files of several runs, as an interruption leaves them; a folder that DVC does not run cannot say."""
    from pipeline_lib.reporting.provenance import changed_stages

    stages = changed_stages(PROJECT) if (PROJECT / ".dvc").exists() else []
    if stages:
        raise ValueError(f"dvc status: {', '.join(stages)} changed since the run, so its files are not of one run; "
                         "`dvc repro` makes them so")


def _ranking_params(params: Path) -> Params:
    config = load_params(params)
    if config.decode.kind == "score":
        raise ValueError("decode.kind=score scores candidates and makes no lists; take a recommender that ranks")
    return config


def _users_of(table: pa.Table) -> int:
    return len(table["user_id"].unique())


def _unknown(users: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """``(n,)`` bool: the users who have no row in ``vectors (U, D)``, or one of NaN."""
    embedded = np.isfinite(vectors).all(axis=1)
    return (users >= len(vectors)) | ~embedded[np.minimum(users, len(vectors) - 1)]


def _source(name: str):
    from pipeline_lib.serving import Source

    return Source(name, embedding_for(name), *artifacts.read_embedding_model(EMBED / name))
