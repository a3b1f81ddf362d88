"""DVC's queue and remotes, and the pages of docs/ on how to use them: real commands in a repository of its own."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline_lib.training.checkpoints import Checkpoints
from tests.conftest import ROOT, TINY, Project

pytestmark = pytest.mark.slow


def write_own_data(raw: Path) -> None:
    raw.mkdir()
    lines = [f"u{user:02d},i{(user * 3 + step) % 20:02d},{1000 + step}" for user in range(60) for step in range(7)]
    (raw / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    titles = ["item_id,title",
              *(f"i{item:02d},{'red blue green'.split()[item % 3]} thing {item}" for item in range(20))]
    (raw / "items.csv").write_text("\n".join(titles) + "\n")


@pytest.fixture
def with_own_data(restored):
    """A small data set, `dvc add`ed, so that DVC can put it into the copies that queued runs work in."""
    write_own_data(restored.folder / "own")
    restored.run("sidflow", "data", "add", "own")
    restored.run("rm", "-r", "own")
    restored.commit("own data")
    yield restored
    wait_for_workers(restored)
    shutil.rmtree(restored.folder / ".sidflow/checkpoints", ignore_errors=True)  # of a run that failed
    restored.run("git", "reset", "-q", "--hard", "HEAD~1")


def wait_for_workers(project) -> None:
    """Until no worker of DVC's queue lives: one that is about to stop takes a new run and drops it."""
    deadline = time.monotonic() + 400
    while "Worker status: 0 active, 0 idle" not in project.run("dvc", "queue", "status").stdout:
        assert time.monotonic() < deadline, project.run("dvc", "queue", "status").stdout
        time.sleep(0.5)


def queue(project, *overrides: str) -> None:
    sizes = ["paper=tiger", "dataset=own", "tokenizer.rqvae.codebook_size=8", "decode.beam_size=30", *overrides]
    overrides = [*(o for o in TINY if "codebook" not in o), *sizes]
    project.run("dvc", "exp", "run", "--queue", *sum((["-S", o] for o in overrides), []))


def test_a_queued_sweep_runs_in_copies(with_own_data):
    queue(with_own_data, "training.learning_rate=0.01,0.02")
    with_own_data.run("dvc", "exp", "run", "--run-all", "-j", "1")
    shown = with_own_data.run("dvc", "exp", "show", "--csv", "--only-changed").stdout
    assert "0.01" in shown and "0.02" in shown and "Failed" not in shown
    drawn = with_own_data.run("sidflow", "sweep", "training.learning_rate", "--out", "sweep.svg").stdout.splitlines()
    assert drawn[0].split() == ["training.learning_rate", "valid.all.recall@10", "test.all.recall@10"]
    assert {"0.01", "0.02"} <= {line.split()[0] for line in drawn[1:]}
    assert "<svg" in (with_own_data.folder / "sweep.svg").read_text()
    drawn = with_own_data.run("sidflow", "sweep", "tokenizer.kind", "--out", "kinds.svg").stdout.splitlines()
    assert drawn[1].split()[0] == "rqvae"
    assert ">tokenizer.kind<" in (with_own_data.folder / "kinds.svg").read_text()


def test_a_queued_run_that_is_killed_resumes_when_it_is_queued_again(with_own_data):
    """Its checkpoints lie in the main repository, not in the copy that is thrown away."""
    longer = ("training.epochs=200", "training.patience=200", "training.learning_rate=0.003",
              "training.validate_every=20")
    checkpoints = with_own_data.folder / ".sidflow/checkpoints"
    queue(with_own_data, *longer)
    worker = subprocess.Popen(["dvc", "queue", "start"], cwd=with_own_data.folder, env=with_own_data.env,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worker.wait(200)
    deadline = time.monotonic() + 400
    while not any(checkpoints.glob("finetune-*/state.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in Path("/proc").glob("[0-9]*"):  # the stage alone, which `dvc queue kill` would leave running
        with contextlib.suppress(OSError):
            inside = str((process / "cwd").resolve()).startswith(str(with_own_data.folder / ".dvc/tmp/exps"))
            if inside and b"stages.finetune" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    (state,) = checkpoints.glob("finetune-*/state.safetensors")
    assert len(Checkpoints(state.parent).load()[1]["rows"]) < 200
    while "Failed" not in with_own_data.run("dvc", "queue", "status").stdout:
        assert time.monotonic() < deadline
        time.sleep(1)
    wait_for_workers(with_own_data)
    queue(with_own_data, *longer)
    with_own_data.run("dvc", "exp", "run", "--run-all", "-j", "1")
    tasks = [line.split() for line in with_own_data.run("dvc", "queue", "status").stdout.splitlines()]
    logs = [with_own_data.run("dvc", "queue", "logs", task[0]).stdout for task in tasks if "Success" in task]
    assert any("resuming after epoch" in log for log in logs), (tasks, logs)
    assert not any(checkpoints.glob("finetune-*/state.safetensors"))


def commands_of(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_the_tutorial_goes_from_a_csv_to_recommendations(restored):
    write_own_data(restored.folder / "shop")
    sizes = [*(o for o in TINY if "codebook" not in o), "tokenizer.kmeans.codebook_size=8",
             "tokenizer.rqkmeans.codebook_size=8"]
    said, before = "", restored.run("git", "rev-parse", "HEAD").stdout.strip()
    for command in commands_of("own-data.md"):
        more = [part for o in sizes for part in ("-S", o)] if command.startswith("dvc exp run") else []
        said += restored.run(*command.split(), *more).stdout
    assert "users: 60" in said and "popularity" in said and "recall@10" in said
    assert {"kmeans", "rqkmeans"} <= {line.split()[0] for line in said.splitlines() if line}  # of `sidflow sweep`
    codes, lists = ((restored.folder / name).read_text().splitlines() for name in ("codes.csv", "recommendations.csv"))
    assert len(codes) == 21 and lists[1].startswith('"u00",1,')
    assert "thing 3" in (restored.folder / "reports/report.html").read_text()
    restored.run("git", "reset", "-q", "--hard", before)
    restored.run("git", "clean", "-q", "-f", "-d")
    restored.run("rm", "-rf", "data/raw/shop", "shop", "codes.csv", "recommendations.csv")


def test_a_worker_pulls_its_inputs_and_pushes_what_it_trained(restored, tmp_path):
    commands = [command.replace("../store", str(tmp_path / "store")) for command in commands_of("workers.md")]
    at = commands.index("dvc pull split embed quantize build_sequences")
    back = commands.index("dvc pull finetune decode")
    restored.compose("training.learning_rate=0.007")
    for command in commands[:at]:
        restored.run(*shlex.split(command))
    worker = Project(tmp_path / "worker")
    restored.run("git", "clone", "-q", str(restored.folder), str(worker.folder))
    for command in commands[at:back]:
        worker.run(*shlex.split(command))
    restored.run("git", "pull", "-q", str(worker.folder))
    restored.run("dvc", "pull", "finetune", "decode")
    assert restored.repro() == ["evaluate"]
    restored.run("git", "reset", "-q", "--hard", "HEAD~2")
