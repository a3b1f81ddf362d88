"""Ours against what a user would otherwise run: timed in turns, printed as a table, kept in reports/benchmarks."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline_lib import plain_files

FOLDER = Path("reports/benchmarks")


def seconds_in_turns(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """The fastest of some runs of each, run by turns, so that a busy machine slows both alike."""
    fastest = [float("inf"), float("inf")]
    for _ in range(repeats):
        for place, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            fastest[place] = min(fastest[place], time.perf_counter() - start)
    return fastest[0], fastest[1]


def report(name: str, *, ours: float, theirs: float, unit: str, equal: bool, lower_is_better: bool = False,
           rows: Sequence[tuple[str, float, float]] = (), folder: Path = FOLDER) -> float:
    """Print a table and write ``<folder>/<name>.json`` (design.md, section 8).

    Args:
        ours, theirs: the figures that the ratio is of.
        equal: whether both gave the same result, checked in the same run.
        lower_is_better: for seconds and bytes; the ratio is above 1 where ours is better either way.
        rows: further ``(label, ours, theirs)`` in the same unit, for the table alone.

    Returns:
        The ratio.

    Raises:
        SystemExit: after writing, if the results were not equal.
    """
    lines = [(label, *figures, _ratio(*figures, lower_is_better)) for label, *figures in [*rows, (name, ours, theirs)]]
    width = max(len(label) for label, *_ in lines)
    print(f"{'':{width}}  {'ours':>12}  {'theirs':>12}  {'ratio':>8}  {unit}")
    for label, our_figure, their_figure, ratio in lines:
        print(f"{label:{width}}  {our_figure:>12,.4g}  {their_figure:>12,.4g}  {ratio:>7.1f}x")
    print(f"same result: {'yes' if equal else 'NO'}")
    ratio = lines[-1][-1]
    plain_files.write_json(folder / f"{name}.json",
                         {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit, "equal": bool(equal)})
    if not equal:
        raise SystemExit(f"{name}: ours and theirs gave different results, so the ratio means nothing")
    return ratio


def _ratio(ours: float, theirs: float, lower_is_better: bool) -> float:
    return theirs / ours if lower_is_better else ours / theirs
