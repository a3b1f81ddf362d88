"""A test's own module, run by two processes of this machine that train together."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_in_two_processes(module: str, *arguments: str) -> None:
    """Run ``python -m module arguments`` twice, under gloo on the CPU; fails where one does, or where they wait."""
    env = os.environ | {"SIDFLOW_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", module,
               *arguments]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
