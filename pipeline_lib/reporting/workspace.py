"""A clone of the project in which one pipeline after the other runs, with the project's DVC cache and checkpoints.

The clone stands at the project's HEAD: work in the project's own folder goes on meanwhile and is not part of any run.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from zc.lockfile import LockError, LockFile

from pipeline_lib import plain_files
from pipeline_lib.reporting.provenance import data_pointer, is_tracked

WORKSPACE = Path(".sidflow/compare/clone")
LOCK = "running.lock"  # beside the clone, with the number of the process that has it


@contextlib.contextmanager
def open_workspace(project: Path) -> Iterator[Path]:
    """The clone, at the project's HEAD; one process at a time may have it.

    Raises:
        RuntimeError: if another process has it, or git or DVC cannot set it up.
    """
    lock_path = (project / WORKSPACE).with_name(LOCK)
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = LockFile(str(lock_path))  # flock, which ends with its process however that ends
    except LockError as error:
        raise RuntimeError(f"{lock_path}: another `sidflow compare` runs here; wait for it, or stop process "
                           f"{plain_files.read_json(lock_path)}") from error
    with contextlib.closing(lock):
        yield _clone(project, project / WORKSPACE)


def run_pipeline(workspace: Path, project: Path, overrides: Sequence[str], raw: Path) -> None:
    """`sidflow params` and `dvc repro` in the clone; what the cache holds is not run again.

    Args:
        raw: ``ingest.path`` of these parameters; the data set is put there from DVC's cache.

    Raises:
        RuntimeError: with the one line that the failed stage, or DVC, ended with.
    """
    (workspace / "reports/timing.json").unlink(missing_ok=True)  # what was timed in another run is not of this one
    python = [sys.executable, "-m"]
    _run([*python, "pipeline_lib.cli", "params", *overrides], workspace, project)
    pointer = place_pointer(workspace, project, raw)
    if (workspace / pointer).exists():
        _run([*python, "dvc", "checkout", "--quiet", "--force", str(pointer)], workspace, project)
    elif not (workspace / raw).exists():
        raise RuntimeError(f"{raw}: not in git and not added to DVC; run `sidflow data add`")
    _run([*python, "dvc", "repro"], workspace, project)


def place_pointer(workspace: Path, project: Path, raw: Path) -> Path:
    """The file that says which data ``raw`` is, as committed; as the project has it where it was added alone."""
    pointer = data_pointer(raw)
    if (project / pointer).exists() and not is_tracked(workspace, pointer):
        shutil.copyfile(project / pointer, workspace / pointer)
    return pointer


def one_line_error(lines: Sequence[str]) -> str:
    """The line of a failed command's output that says why: a stage's own, else DVC's last, else the last."""
    for start in ("error: ", "ERROR: "):
        found = [line.removeprefix(start) for line in lines if line.startswith(start)]
        if found:
            return found[-1]
    return lines[-1] if lines else "no message"


def _clone(project: Path, folder: Path) -> Path:
    if not (folder / ".git").exists():
        shutil.rmtree(folder, ignore_errors=True)
        places = [str(project.resolve()), str(folder.resolve())]
        _run(["git", "clone", "--quiet", "--shared", "--no-checkout", *places], project, project)
    _run(["git", "fetch", "--quiet", "origin", "HEAD"], folder, project)
    _run(["git", "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"], folder, project)
    cache = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], cwd=project, capture_output=True, text=True,
                           check=False)
    if cache.returncode:
        raise RuntimeError(f"{project.resolve().name}: {one_line_error(cache.stderr.splitlines())}")
    place = (project / cache.stdout.strip()).resolve()
    _run([sys.executable, "-m", "dvc", "cache", "dir", "--local", str(place)], folder, project)
    return folder


def _run(command: Sequence[str], folder: Path, project: Path) -> None:
    """Run a command, passing on what it says, and raise with its one line when it fails."""
    env = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "PYTHONPATH")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    env.setdefault("SIDFLOW_CHECKPOINTS", str((project / ".sidflow/checkpoints").resolve()))
    lines = []
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, start_new_session=True) as process, _ended_with_us(process):
        for line in process.stdout:
            lines.append(line.rstrip())
            sys.stderr.write(line)
    if process.returncode:
        raise RuntimeError(one_line_error([line for line in lines if line]))


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen) -> Iterator[None]:
    """Whatever ends us, Ctrl-C or SIGTERM, ends the command and all that it started, which else runs on and holds locks."""
    def end(number, frame):
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, former)
