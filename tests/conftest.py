"""A small copy of the project with the demo pipeline run once, for tests that ask DVC what it would do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline_lib.params_file import compose_tree

ROOT = Path(__file__).resolve().parents[1]
TINY = ["tokenizer.rqvae.epochs=3", "tokenizer.rqvae.codebook_size=16", "tokenizer.rqkmeans.codebook_size=16",
        "training.epochs=2", "embed.text.dimensions=16", "decode.beam_size=30", "embed.sasrec.epochs=3",
        "embed.mf.epochs=10", "embed.lightgcn.epochs=10", "recommender.joint_seq2seq.final_epochs=1",
        "embed.dense.epochs=2", "tokenizer.kmeans.codebook_size=16",
        "tokenizer.letter.epochs=3", "tokenizer.letter.codebook_size=16",
        "recommender.instruction_lm.joint_epochs=1"]


def with_paper(*overrides: str) -> list[str]:
    """Overrides, and TIGER where they name no paper."""
    named = any(override.startswith("paper=") for override in overrides)
    return [*([] if named else ["paper=tiger"]), *overrides]


def tiny(*overrides: str) -> list[str]:
    """The same over small sizes."""
    return with_paper(*TINY, *overrides)


class Project:
    """A git and DVC repository of its own, with its own cache and checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        drop = {"PYTHONDONTWRITEBYTECODE", "SIDFLOW_CHECKPOINTS", "SIDFLOW_LAUNCH", "DVC_ROOT"}
        self.env = {name: value for name, value in os.environ.items() if name not in drop}
        self.env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}", "SIDFLOW_DEVICE": "cpu",
                     "PYTHONPATH": "", "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t",
                     "GIT_COMMITTER_EMAIL": "t@t"}

    def run(self, *command: str, check: bool = True, timeout: float = 900, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=self.folder, env=self.env | env, capture_output=True, text=True,
                              timeout=timeout, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def repro(self, *targets: str) -> list[str]:
        """`dvc repro`; the stages that really ran."""
        return self.stages_run(self.run("dvc", "repro", *targets).stdout)

    @staticmethod
    def stages_run(output: str) -> list[str]:
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]

    def compose(self, *overrides: str) -> None:
        """As `sidflow params`, without the imports of its checks, which take seconds."""
        tree = compose_tree(self.folder / "conf", tiny(*overrides))
        (self.folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)


def write_shop(folder: Path, *, users: int, items: int) -> None:
    """The demo shop's recipe in other sizes."""
    shop = yaml.safe_load((ROOT / "data/raw/demo/shop.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shop.yaml").write_text(yaml.safe_dump(shop | {"users": users, "items": items}))


def copy_project(folder: Path) -> Project:
    """What git tracks, or would, as the working tree has it, with a smaller demo shop and no recorded runs."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
                            check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        recorded = name.startswith("reports/results/") and not name.endswith("published.csv")
        if (ROOT / name).is_file() and name not in ("dvc.lock", "params.yaml") and not recorded:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    write_shop(folder / "data/raw/demo", users=150, items=120)
    project = Project(folder)
    project.run("git", "init", "-q")
    project.compose()
    project.commit("project")
    return project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, those of tests/ itself, which run DVC, before all: so that none is left for the end."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, len(item.path.parts)))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Run the pipeline once; a test that changes files puts them back."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    project.first_run = project.repro()
    project.commit("first run")
    return project


@pytest.fixture
def other_params(project):
    """The project, of which a test changes params.yaml and nothing else; afterwards it is as committed."""
    yield project
    project.run("git", "checkout", "-q", "params.yaml")


@pytest.fixture
def restored(project):
    """The project; afterwards params.yaml and the workspace are as committed, all from DVC's cache."""
    yield project
    project.run("git", "checkout", "-q", "-f", "HEAD")
    project.run("dvc", "checkout", "-q", "-f")
