import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
PROGRAM = """import sys
from pathlib import Path
from pipeline_lib.reporting.workspace import _run
_run([sys.executable, "-c", sys.argv[1]], Path(), Path())
"""


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_a_comparison_ends_the_command_that_it_runs(number):
    with subprocess.Popen([sys.executable, "-c", PROGRAM, COMMAND], stderr=subprocess.PIPE, text=True) as process:
        pid = int(process.stderr.readline())
        assert runs(pid)
        process.send_signal(number)
        assert process.wait(timeout=30) != 0
    deadline = time.monotonic() + 30
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(pid)
