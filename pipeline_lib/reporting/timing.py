"""Seconds, peak memory and throughput of each stage, and the hardware, in one small JSON file outside the cached outputs."""

import contextlib
import resource
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline_lib import plain_files
from pipeline_lib.reporting.hardware import describe_hardware

HARDWARE = "hardware"  # the entry of timing.json that is no stage


@contextlib.contextmanager
def measure_stage(stage: str, path: Path, stages: Collection[str], write: bool = True) -> Iterator[dict[str, float]]:
    """Measure the block and put the result at ``stage`` in the JSON file, beside those of other stages.

    ``hardware`` in the file is that of the stage that ran last.

    Args:
        stages: all stages of this run; what the file holds of others, left by a run with other parameters, goes.
        write: of several processes only one should.

    Yields:
        A dict for counts of one's own, e.g. ``measured["users"] = 2000``: a count of ``x`` also gives ``x_per_second``.
    """
    counts: dict[str, float] = {}
    start = time.perf_counter()
    yield counts
    if not write:
        return
    seconds = time.perf_counter() - start
    rates = {f"{name}_per_second": round(count / max(seconds, 1e-9), 1) for name, count in counts.items()
             if not name.endswith("_per_second")}
    entry = {"seconds": round(seconds, 2), "peak_memory_mib": round(peak_memory_mib(), 1), **counts, **rates}
    timings = plain_files.read_json(path) if path.exists() else {}
    kept = {name: values for name, values in timings.items() if name in stages}
    plain_files.write_json(path, {**kept, stage: entry, HARDWARE: describe_hardware()})


def peak_memory_mib() -> float:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
