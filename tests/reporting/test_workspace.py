import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline_lib.reporting import workspace

COMMAND = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
PROGRAM = """import sys
from pathlib import Path
from pipeline_lib.reporting.workspace import _run
_run([sys.executable, "-c", sys.argv[1]], Path(), Path())
"""
HOLDER = """import sys, time
from pathlib import Path
from pipeline_lib.reporting import workspace
workspace._clone = lambda project, folder: folder
with workspace.open_workspace(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(60)
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


def test_data_that_is_not_committed_is_what_the_project_has_now(tmp_path):
    project, clone = tmp_path / "project", tmp_path / "clone"
    for folder in (project, clone):
        (folder / "data/raw").mkdir(parents=True)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    for digest in ("one", "two"):
        (project / "data/raw/shop.dvc").write_text(digest)
        pointer = workspace.place_pointer(clone, project, Path("data/raw/shop"))
        assert pointer == Path("data/raw/shop.dvc") and (clone / pointer).read_text() == digest
    subprocess.run(["git", "add", "-f", "data/raw/shop.dvc"], cwd=clone, check=True)
    (project / "data/raw/shop.dvc").write_text("three")
    workspace.place_pointer(clone, project, Path("data/raw/shop"))
    assert (clone / "data/raw/shop.dvc").read_text() == "two"  # that of HEAD


@pytest.fixture
def holder(tmp_path):
    """Another process that has the workspace of tmp_path."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_workspace_is_refused_while_a_comparison_lives_and_free_when_it_was_killed(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "_clone", lambda project, folder: folder)
    for _ in range(2):  # a refusal leaves the lock as it is
        with pytest.raises(RuntimeError, match=f"another `sidflow compare` runs here; .* stop process {holder.pid}$"):
            with workspace.open_workspace(tmp_path):
                pass
    holder.kill()
    holder.wait()
    with workspace.open_workspace(tmp_path) as folder:
        assert folder == tmp_path / workspace.WORKSPACE


def test_what_a_dead_comparison_left_does_not_block_where_its_number_is_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "_clone", lambda project, folder: folder)
    stale = (tmp_path / workspace.WORKSPACE).parent
    stale.mkdir(parents=True)
    (stale / f"running-{os.getppid()}").mkdir()
    (stale / "running.lock").write_text(f" {os.getppid()}\n")
    for _ in range(2):
        with workspace.open_workspace(tmp_path) as folder:
            assert folder == tmp_path / workspace.WORKSPACE
