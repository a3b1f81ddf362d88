"""`dvc repro` with nothing to do, against the two seconds that a user may wait for it.

Run with ``python -m benchmarks.noop`` after `dvc repro`.
"""

import subprocess
import sys
import time

from benchmarks.comparison import report

BOUND = 2.0


def main() -> None:
    command = [sys.executable, "-m", "dvc", "repro"]
    fastest, ran = float("inf"), False
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        fastest = min(fastest, time.perf_counter() - start)
        ran |= "Running stage" in done.stdout
    report("noop", ours=fastest, theirs=BOUND, unit="seconds (theirs: the bound)", equal=not ran, lower_is_better=True)


if __name__ == "__main__":
    main()
