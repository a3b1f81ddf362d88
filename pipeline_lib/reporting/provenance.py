"""Where a result comes from: the code's revision, what DVC says of the pipeline, the machine."""

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.params_file import compose_tree, read_tree
from pipeline_lib.reporting.ledger import flatten

CODE = ("pipeline_lib", "stages", "conf", "dvc.yaml")  # params.yaml, dvc.lock and reports are what a run itself writes


@dataclass(frozen=True)
class Stage:
    """A stage as dvc.yaml and dvc.lock have it: ``deps`` are paths, ``outs`` paths with the hash of what they hold."""

    name: str
    deps: tuple[str, ...]
    outs: Mapping[str, str | None]


def revision(folder: Path) -> str:
    """The commit that ``folder`` is at, 12 digits."""
    return _git(folder, "rev-parse", "--short=12", "HEAD").strip()


def changed_code(folder: Path, *beside: str) -> list[str]:
    """Files of the code, and of places ``beside`` it, that differ from HEAD, untracked ones too."""
    lines = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", *CODE, *beside).splitlines()
    return [line[3:].split(" -> ")[-1] for line in lines]


def changed_keys(folder: Path) -> dict[str, Any]:
    """Keys of params.yaml with other values than its presets compose to, e.g. ``training.epochs``: what -S set.

    A key that only follows another of them is left out.
    """
    tree = read_tree(folder / "params.yaml")
    presets = [f"{group}={name}" for group, name in tree["preset"].items()]
    composed = flatten(compose_tree(folder / "conf", presets), joint=".")
    changed = {key: value for key, value in flatten(tree, joint=".").items()
               if key != "seed" and composed.get(key) != value}
    written = flatten(compose_tree(folder / "conf", presets, resolve=False), joint=".")
    followed = {place: text[2:-1] for place, text in written.items() if str(text).startswith("${")}
    return {key: value for key, value in changed.items() if not _follows(key, changed, followed)}


def _follows(key: str, changed: Mapping[str, Any], followed: Mapping[str, str]) -> bool:
    for place, other in followed.items():  # a key, or a block of keys
        if f"{key}.".startswith(f"{place}."):
            source = other + key[len(place):]
            return source in changed and changed[source] == changed[key]
    return False


def changed_stages(folder: Path) -> list[str]:
    """Stages, and tracked data, whose files are not those of dvc.lock: what `dvc status` lists.

    Raises:
        ValueError: if DVC cannot say, e.g. for params.yaml that is no YAML, or another process that holds its lock.
    """
    with _opened(folder, "dvc status") as repo:
        return sorted(repo.status())


def read_stages(folder: Path) -> list[Stage]:
    """The stages of the parameters at hand, in an order in which they can run.

    Raises:
        ValueError: if DVC cannot read the pipeline, e.g. for want of a parameter.
    """
    with _opened(folder, "dvc.yaml") as repo:
        return in_order(_stages_of(repo))


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """The same stages, each behind those it depends on."""
    ordered: list[Stage] = []
    waiting = list(stages)
    while waiting:
        free = [stage for stage in waiting if not predecessors(stage, waiting)]
        if not free:
            raise ValueError(f"dvc.yaml: {', '.join(stage.name for stage in waiting)} depend on each other in a circle")
        ordered += free
        waiting = [stage for stage in waiting if stage not in free]
    return ordered


def predecessors(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """Those of ``stages`` whose outputs ``stage`` reads."""
    return [other for other in stages if other is not stage and set(other.outs) & set(stage.deps)]


def data_pointer(raw: Path) -> Path:
    """The file by which `dvc add` remembers a folder of raw data."""
    return raw.with_name(f"{raw.name}.dvc")


def data_digest(folder: Path, raw: Path) -> str | None:
    """The hash of the files of ``raw``, as `dvc add` found them, or as git has them; None where neither does."""
    pointer = folder / data_pointer(raw)
    if pointer.exists():
        return read_tree(pointer)["outs"][0].get("md5")
    if not _is_inside(folder, raw):
        return None
    files = _git(folder, "ls-files", "--stage", "--", str(raw))  # with the hash of each
    return hashlib.sha256(files.encode()).hexdigest()[:32] if files else None


def is_tracked(folder: Path, path: Path) -> bool:
    """Whether git knows a file, or files below it."""
    return bool(_git(folder, "ls-files", "--", str(path)))


def require_committed(folder: Path, raw: Path) -> None:
    """Refuse a result that nobody could reproduce.

    Args:
        raw: the folder of the raw data, below ``folder``.

    Raises:
        ValueError: if code or data differ from HEAD or lie outside ``folder``, or the pipeline's files are not those of
            its parameters.
    """
    if not _is_inside(folder, raw):
        raise ValueError(f"{raw}: lies outside the project, so git cannot say which data made this run: `sidflow data "
                         f"add {raw}`, run with -S dataset= and the name that it gets, then record that")
    places = (raw, data_pointer(raw))
    if not any(is_tracked(folder, place) for place in places):
        raise ValueError(f"{raw}: neither these files nor {data_pointer(raw)}, which `dvc add` writes, are in git: commit "
                         "what says which data made this run, then record it")
    files = changed_code(folder, *map(str, places))
    if files:
        raise ValueError(f"{files[0]} differs from HEAD ({len(files)} such files): commit what made this run, "
                         "`dvc repro`, then record it")
    stages = changed_stages(folder)
    if stages:
        raise ValueError(f"dvc status: {', '.join(stages)} changed since the run; `dvc repro`, then record it")


def _is_inside(folder: Path, raw: Path) -> bool:
    return Path(os.path.abspath(folder / raw)).is_relative_to(os.path.abspath(folder))  # a link may lead to DVC's cache


@contextlib.contextmanager
def _opened(folder: Path, what: str) -> Iterator[Any]:
    """DVC's repository of a project; what DVC refuses within the block is one line that begins with ``what``."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(folder)) as repo:
            yield repo
    except DvcException as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error


def _stages_of(repo) -> list[Stage]:
    return [Stage(stage.name, tuple(dep.def_path for dep in stage.deps),
                  {out.def_path: out.hash_info.value for out in stage.outs})
            for stage in repo.index.stages if hasattr(stage, "name")]  # without the pointers of `dvc add`


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{folder.resolve().name}: git {arguments[0]} failed ({done.stderr.strip()}); results are "
                         "recorded with the revision that made them, so the project must be a git repository")
    return done.stdout
