"""Imports point down only, and a stage imports no more than it needs (docs/design.md, section 3)."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline_lib import variants

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [  # from the bottom; a room imports from rooms below it, and from itself
    {"ragged", "seeding", "parsing", "ranges", "params", "params_file", "plain_files", "command"},
    {"records", "columns"},
    {"artifacts"},
    {"interactions", "quantizers", "evaluation"},
    {"sequences", "decoding", "backbones", "reporting"},
    {"training"},
    {"tokenizers", "recommenders", "embeddings"},
    {"variants", "serving", "added_items"},
    {"data_cli", "recommend_cli"},
    {"cli", "stages"},
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
MODULES = [*sorted((ROOT / "pipeline_lib").rglob("*.py")), *sorted((ROOT / "stages").glob("*.py"))]


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "stages":
        return "stages"
    return parts[1] if parts[0] == "pipeline_lib" and len(parts) > 1 else None


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline_lib":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            rooms.add(room_of(node.module))
        elif isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names}
    return rooms - {None}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own is None or path.name == "__init__.py":
        return
    for room in imported_rooms(path) - {own}:
        assert HEIGHT[room] <= HEIGHT[own], f"{own} imports {room}, which is above it"
        beside = {own, room} <= {"tokenizers", "recommenders", "embeddings"}
        assert not beside, f"{own} imports {room}; they meet in an artifact"


def test_every_room_has_its_layer():
    rooms = {path.stem for path in (ROOT / "pipeline_lib").iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert rooms == HEIGHT.keys() - {"stages"}


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join(name.split('.')[0] for name in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                              check=True).stdout.split())


@pytest.mark.parametrize("stage", ["ingest", "split", "evaluate"])
def test_table_stages_do_without_torch(stage):
    assert not loaded_by(f"stages.{stage}") & {"torch", "transformers", "sklearn", "faiss"}


def test_a_gpu_worker_needs_neither_dvc_nor_polars_nor_faiss():
    loaded = loaded_by("stages.finetune, stages.decode, pipeline_lib.recommenders.seq2seq")
    assert "torch" in loaded
    assert not loaded & {"dvc", "polars", "faiss", "sklearn", "hydra"}


def test_only_artifacts_params_and_what_reads_raw_files_open_paths():
    calls = {"open", "read_text", "write_text", "read_bytes", "write_bytes"}
    openers = {str(path.relative_to(ROOT)) for path in MODULES for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.Call)
               and (getattr(node.func, "id", None) or getattr(node.func, "attr", "")) in calls}
    allowed = ("pipeline_lib/artifacts.py", "pipeline_lib/plain_files.py", "pipeline_lib/params_file.py",
               "pipeline_lib/cli.py", "pipeline_lib/data_cli.py", "pipeline_lib/training/checkpoints.py",
               "pipeline_lib/interactions/")
    assert [path for path in openers if not path.startswith(allowed)] == []


def modules_named_in(path: Path) -> set[Path]:
    """Files of the project that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = {name for name in names if name.split(".")[0] in ("pipeline_lib", "stages")}
    return {path for path in map(file_of, own) if path.exists()}


def file_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def imported_by(path: Path) -> set[Path]:
    """A file, and all of the project that it imports, directly or not."""
    found, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += modules_named_in(path)
    return found


CHOSEN = {"embed": "embeddings", "quantize": "tokenizers", "finetune": "recommenders", "decode": "recommenders"}
ROWS = {"embeddings": variants.EMBEDDINGS, "tokenizers": variants.TOKENIZERS, "recommenders": variants.RECOMMENDERS}
WITHOUT_EFFECT = {  # on what a stage writes
    "pipeline_lib/command.py": "how a stage is started, and its error messages",
    "pipeline_lib/reporting/timing.py": "writes reports/timing.json, which is no output of a stage",
    "pipeline_lib/reporting/hardware.py": "likewise",
}
REGISTRY = "pipeline_lib/variants.py"  # refuses, and names the module of a kind, which is a dep by `${...kind}`


@pytest.mark.parametrize("stage", [path.stem for path in MODULES
                                   if path.parent.name == "stages" and path.stem != "__init__"])
def test_a_stage_depends_on_all_code_that_it_imports(stage):
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    code = [dep for dep in deps if dep.startswith(("pipeline_lib/", "stages/"))]
    of_kind, shared = ([dep for dep in code if ("${" in dep) is wanted] for wanted in (True, False))
    kinds = [file_of(row.module) for row in ROWS[CHOSEN[stage]].values()] if stage in CHOSEN else []
    imported = {str(path.relative_to(ROOT)) for path in imported_by(ROOT / f"stages/{stage}.py")}
    imported |= {str(path.relative_to(ROOT)) for kind in kinds for path in imported_by(kind) - {kind}}
    if stage == "build_sequences":
        imported |= {str(path.relative_to(ROOT)) for row in variants.RECOMMENDERS.values()
                     for path in imported_by(file_of(row.sequences))}
    read = imported - WITHOUT_EFFECT.keys() - ({REGISTRY} if stage != "build_sequences" else set())
    assert {path for path in read if not any(path == dep or path.startswith(f"{dep}/") for dep in shared)} == set()
    assert len(of_kind) == (1 if stage in CHOSEN else 0)
    assert all((ROOT / dep).exists() for dep in shared)


def test_what_is_chosen_by_its_kind_is_found_by_the_deps_of_its_stage():
    for room, rows in ROWS.items():
        assert [row.module for row in rows.values()] == [f"pipeline_lib.{room}.{kind}" for kind in rows]
    assert {row.sequences.rpartition(".")[0] for row in variants.RECOMMENDERS.values()} == {"pipeline_lib.sequences"}
    by_name = [path for path in MODULES if "import_module(" in path.read_text(encoding="utf-8")]
    assert by_name == [ROOT / REGISTRY]


def test_the_files_that_make_folders_importable_hold_no_code_that_a_dep_would_miss():
    assert [path for path in ROOT.glob("pipeline_lib/**/__init__.py") if path.read_text(encoding="utf-8")] == []


def test_no_pickle_and_no_remote_code():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for wrong in ("import pickle", "torch.load(", "joblib.load", "allow_pickle=True", "trust_remote_code=True"):
            assert wrong not in text, f"{path}: {wrong}"


@pytest.mark.parametrize("stage", ["embed", "finetune", "decode"])
def test_it_is_said_how_long_threads_wait_before_torch_reads_it(stage):
    code = f"""
import os, sys
class AtTorch:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
sys.meta_path.insert(0, AtTorch())
import stages.{stage}
"""
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for wanted, extra in (("1000", {}), ("50", {"GOMP_SPINCOUNT": "50"}), ("None", {"OMP_WAIT_POLICY": "active"})):
        said = subprocess.run([sys.executable, "-c", code], env=env | extra, cwd=ROOT, capture_output=True, text=True,
                              check=True).stdout.split()
        assert said and set(said) == {wanted}
