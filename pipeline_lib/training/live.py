"""Curves while training, through DVCLive where it is installed (the extra `live`); nothing otherwise."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def live_curves(folder: Path, wanted: bool) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yields a function that takes a row an epoch; DVC Studio and the VS Code extension show them as they come.

    Args:
        folder: where DVCLive keeps its files, outside a stage's outputs.
        wanted: False on all but one of several processes.
    """
    if not wanted or not _installed():
        yield lambda row: None
        return
    from dvclive import Live

    with Live(dir=str(folder), save_dvc_exp=False, dvcyaml=None, report=None) as live:
        def log_row(row: Mapping[str, float]) -> None:
            live.step = row["epoch"]
            for name, value in row.items():
                if name != "epoch":
                    live.log_metric(name, value)
            live.make_summary()

        yield log_row


def _installed() -> bool:
    """Whether the package is there. A folder `dvclive/`, where it writes by default, is found too; it has no origin."""
    found = importlib.util.find_spec("dvclive")
    return found is not None and found.origin is not None
