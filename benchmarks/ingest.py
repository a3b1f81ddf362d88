"""Read, 5-core and leave-one-out split of 10 million interactions: ours against pandas, seconds and peak memory.

Each side runs in a process of its own, so that peak memory is its own. Both read the same Parquet file, number users
and items by first appearance and end with each user's training items and targets, whose digests must be equal. The
pandas side is written as it usually is; with ``--careful`` as by somebody who first turns ids into whole numbers.
"""

import hashlib
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

CORE = 5


def main(rows: Annotated[int, typer.Option(help="number of interactions")] = 10_000_000,
         careful: Annotated[bool, typer.Option(help="against the faster pandas side")] = False,
         out: Path = Path("reports/benchmarks/ingest.json"),
         side: Annotated[str, typer.Option(hidden=True)] = "",
         folder: Annotated[Path, typer.Option(hidden=True)] = Path()) -> None:
    if side:
        print(json.dumps(measure(SIDES[side], folder)))
        return
    if importlib.util.find_spec("pandas") is None:
        sys.exit("error: this benchmark compares with pandas, which is not there; run `pip install 'sidflow[bench]'`")
    with tempfile.TemporaryDirectory() as place:
        raw_bytes = write_interactions(Path(place) / "interactions.parquet", rows)
        ours, theirs = (run_side(name, Path(place)) for name in ("ours", "pandas_careful" if careful else "pandas"))
    print(f"{rows:,} interactions, {ours['interactions']:,} in the {CORE}-core, raw columns {raw_bytes >> 20} MiB")
    print(f"{'':8} {'seconds':>8} {'cpu':>6} {'peak MiB':>9} {'x raw':>6}  steps")
    for name, found in (("ours", ours), ("pandas", theirs)):
        found["memory_to_raw"] = round(found["peak_memory_mib"] * 2**20 / raw_bytes, 2)
        steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in found["steps"].items())
        print(f"{name:8} {found['seconds']:8.1f} {found['cpu_seconds']:6.1f} {found['peak_memory_mib']:9.0f} "
              f"{found['memory_to_raw']:6.2f}  {steps}")
    result = {"ours": ours["seconds"], "theirs": theirs["seconds"],
              "ratio": round(theirs["seconds"] / ours["seconds"], 2), "unit": "seconds",
              "equal": ours["digest"] == theirs["digest"],
              "cpu_ratio": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2), "interactions": rows,
              "raw_columns_mib": round(raw_bytes / 2**20, 1), "ours_measured": ours, "theirs_measured": theirs}
    print(f"ratio {result['ratio']:.1f}x (processor time {result['cpu_ratio']:.1f}x), equal results: {result['equal']}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def write_interactions(path: Path, rows: int) -> int:
    """Long-tailed users and items in order of time; returns the bytes of the raw columns in Arrow's plain form."""
    import polars as pl

    rng = np.random.default_rng(0)
    users = (rows // 8 * rng.random(rows) ** 1.6).astype(np.int64)
    items = (rows // 30 * rng.random(rows) ** 2.5).astype(np.int64)
    table = pl.DataFrame({"user": users * 7919 % 10**9, "item": items * 104729 % 10**8,
                          "timestamp": np.sort(rng.integers(10**9, 1_700_000_000, rows)),
                          "rating": rng.integers(1, 6, rows).astype(np.float32)})
    table = table.select(pl.format("A{}", pl.col("user") + 10**12).alias("user_id"),
                         pl.format("B{}", pl.col("item") + 10**8).alias("item_id"), "timestamp", "rating")
    table.write_parquet(path)
    lengths = table.select(pl.col("user_id", "item_id").str.len_bytes().cast(pl.Int64).sum()).row(0)
    return sum(lengths) + rows * (4 + 4 + 8 + 4)  # an offset for each string, int64 and float32


def run_side(name: str, folder: Path) -> dict:
    command = [sys.executable, "-m", "benchmarks.ingest", "--side", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: the {name} side failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def measure(side, folder: Path) -> dict:
    start, start_cpu = time.perf_counter(), time.process_time()
    steps, arrays = side(folder)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.int64))
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2),
            "peak_memory_mib": round(peak / 2**20, 1), "digest": digest.hexdigest(),
            "interactions": sum(len(array) for array in arrays[1:]), "steps": steps}


def our_side(folder: Path):
    from pipeline_lib.interactions.filtering import filter_interactions
    from pipeline_lib.interactions.indexing import index_tables
    from pipeline_lib.interactions.reading import read_raw
    from pipeline_lib.interactions.splitting import split_interactions
    from pipeline_lib.params import IngestParams, SplitParams

    clock = Clock()
    kept = read_raw(folder, IngestParams(str(folder), "table")).interactions
    clock.lap("read")
    kept = filter_interactions(kept, user_core=CORE, item_core=CORE)
    clock.lap("core")
    log, items, _ = index_tables(kept, None)
    del kept
    clock.lap("index")
    split = split_interactions(log, len(items), SplitParams("leave_one_out"), order="time", seed=0)
    clock.lap("split")
    return clock.steps, (split.train.lengths, split.train.values, split.valid.targets.values, split.test.targets.values)


def pandas_side(folder: Path):
    """As it is usually written: counts by ``groupby`` on the ids, histories by ``agg(list)``."""
    import pandas as pd

    clock = Clock()
    log = pd.read_parquet(folder / "interactions.parquet")
    clock.lap("read")
    while True:
        users = log.groupby("user_id")["user_id"].transform("size")
        items = log.groupby("item_id")["item_id"].transform("size")
        kept = log[(users >= CORE) & (items >= CORE)]
        if len(kept) == len(log):
            break
        log = kept
    clock.lap("core")
    log = log.assign(user=pd.factorize(log["user_id"])[0], item=pd.factorize(log["item_id"])[0])
    log = log.sort_values(["user", "timestamp"], kind="stable")
    clock.lap("index")
    histories = log.groupby("user")["item"].agg(list)
    train, valid, test = histories.str[:-2], histories.str[-2], histories.str[-1]
    clock.lap("split")
    return clock.steps, (train.str.len().to_numpy(), np.concatenate(train.to_list()), valid.to_numpy(), test.to_numpy())


def careful_pandas_side(folder: Path):
    """As a careful programmer would: ids become whole numbers before anything is counted, and no list is made."""
    import pandas as pd

    clock = Clock()
    log = pd.read_parquet(folder / "interactions.parquet")
    clock.lap("read")
    log["user"], log["item"] = pd.factorize(log["user_id"])[0], pd.factorize(log["item_id"])[0]
    while True:
        users, items = log["user"].map(log["user"].value_counts()), log["item"].map(log["item"].value_counts())
        kept = log[(users >= CORE) & (items >= CORE)]
        if len(kept) == len(log):
            break
        log = kept
    clock.lap("core")
    log["user"], log["item"] = pd.factorize(log["user"])[0], pd.factorize(log["item"])[0]
    log = log.sort_values(["user", "timestamp"], kind="stable")
    clock.lap("index")
    from_end = log.groupby("user").cumcount(ascending=False)
    train = log[from_end >= 2]
    lengths = train.groupby("user").size()
    items = [part["item"].to_numpy() for part in (train, log[from_end == 1], log[from_end == 0])]
    clock.lap("split")
    return clock.steps, (lengths.to_numpy(), *items)


class Clock:
    """Seconds of each step since the step before."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.steps[step], self.last = round(now - self.last, 2), now


SIDES = {"ours": our_side, "pandas": pandas_side, "pandas_careful": careful_pandas_side}

if __name__ == "__main__":
    typer.run(main)
