"""Seconds, peak memory and throughput of each stage, and the hardware, in one small JSON file outside the cached outputs."""

import contextlib
import dataclasses
import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_lib import plain_files
from pipeline_lib.params import Params
from pipeline_lib.reporting.hardware import describe_hardware

HARDWARE = "hardware"  # the entry of timing.json that is no stage
EARLIER = "earlier_seconds"  # a count that is none: of processes before this one, whose work it resumed
SETTINGS = "settings"  # the field of an entry that says what its stage was told
BLOCKS = ("ingest", "split", "embed", "tokenizer", "sequences", "recommender", "training", "decode", "evaluate")
LAST_BLOCK = {"quantize": "tokenizer", "build_sequences": "sequences", "finetune": "training",  # of what a stage reads
              **{stage: stage for stage in ("ingest", "split", "embed", "decode", "evaluate")}}


@contextlib.contextmanager
def measure_stage(stage: str, path: Path, params: Params, write: bool = True) -> Iterator[dict[str, float]]:
    """Measure the block and put the result at ``stage`` in the JSON file, beside those of other stages.

    ``hardware`` in the file is that of the stage that ran last.

    Args:
        params: of this run; what the file holds of stages that these do not have goes.
        write: of several processes only one should.

    Yields:
        A dict for counts of one's own, e.g. ``measured["users"] = 2000``: a count of ``x`` also gives ``x_per_second``.
        `EARLIER` in it adds to the seconds.
    """
    counts: dict[str, float] = {}
    start = time.perf_counter()
    yield counts
    if not write:
        return
    seconds = counts.pop(EARLIER, 0.0) + time.perf_counter() - start
    rates = {f"{name}_per_second": round(count / max(seconds, 1e-9), 1) for name, count in counts.items()
             if not name.endswith("_per_second")}
    entry = {"seconds": round(seconds, 2), "peak_memory_mib": round(peak_memory_mib(), 1), **counts, **rates,
             SETTINGS: settings_digest(stage, params)}
    timings = plain_files.read_json(path) if path.exists() else {}
    kept = {name: values for name, values in timings.items() if name in params.stages}
    plain_files.write_json(path, {**kept, stage: entry, HARDWARE: describe_hardware()})


def settings_digest(stage: str, params: Params) -> str:
    """12 digits of what a stage and those before it were told, maybe of more: equal where a stage did the same work."""
    kind, _, source = stage.partition("@")
    blocks = BLOCKS[: BLOCKS.index(LAST_BLOCK[kind]) + 1]
    told = {block: dataclasses.asdict(getattr(params, block)) for block in blocks}
    if "embed" in told:
        chosen = [source] if source else params.embed.sources
        told["embed"]["options"] = {name: told["embed"]["options"][name] for name in chosen}
    if source:
        del told["embed"]["sources"]
    if stage != "ingest":  # which draws nothing
        told["seed"] = params.seed
    text = json.dumps(told, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def timings_of(measured: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """The entries of timing.json that are of ``params``.

    DVC may take a stage from its cache, and leave the entry of a run in between.
    """
    return {name: entry for name, entry in measured.items()
            if name in params.stages and entry.get(SETTINGS) in (None, settings_digest(name, params))}


def peak_memory_mib() -> float:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
