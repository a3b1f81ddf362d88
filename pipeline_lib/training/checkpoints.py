"""Checkpoints that a killed run resumes from, kept outside a stage's outputs.

A checkpoint belongs to a key: a digest of the params, inputs and code that it was trained with. It is one safetensors
file, so that it is replaced at once and a kill loses none. Two runs with one key lock each other out.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline_lib import plain_files

log = logging.getLogger(__name__)
CODE = Path(__file__).resolve().parents[1]
STATE = "state.safetensors"


def checkpoint_root() -> Path:
    """``$SIDFLOW_CHECKPOINTS``, else ``.sidflow/checkpoints`` of the main repository (DVC_ROOT in a queued run)."""
    named = os.environ.get("SIDFLOW_CHECKPOINTS")
    return Path(named) if named else Path(os.environ.get("DVC_ROOT", ".")) / ".sidflow" / "checkpoints"


def checkpoint_key(stage: str, params: Any, inputs: list[Path]) -> str:
    """A digest of what a run depends on: its parameters (by ``repr``), every byte of its inputs, the code."""
    digest = hashlib.sha256(repr(params).encode())
    for path in inputs:
        files = [path] if path.is_file() else sorted(child for child in path.rglob("*") if child.is_file())
        for file in files:
            digest.update(str(file.relative_to(path)).encode() + _file_digest(file))
    for file in sorted(CODE.rglob("*.py")):
        digest.update(_file_digest(file))
    return f"{stage}-{digest.hexdigest()[:24]}"


@dataclass
class Clock:
    """Seconds of a training over all its processes: ``earlier`` ones, up to what was loaded, and this one."""

    began: float = field(default_factory=time.perf_counter)
    earlier: float = 0.0

    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.began


class Checkpoints:
    """One folder of the latest state: ``save`` replaces it, ``load`` returns it or None, ``clear`` removes it."""

    def __init__(self, folder: Path, root: Path | None = None, clock: Clock | None = None) -> None:
        self.folder, self.root, self.clock = folder, root or folder.parent, clock or Clock()

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        with plain_files.writing_file(self.folder / STATE) as place:
            save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, place,
                      metadata={"state": json.dumps(state), "seconds": str(self.clock.seconds())})

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if not (self.folder / STATE).exists():
            return None
        with safe_open(self.folder / STATE, "pt") as file:
            told = file.metadata()
            self.clock.earlier = max(self.clock.earlier, float(told["seconds"]))
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(told["state"])

    def part(self, name: str) -> "Checkpoints":
        """The state of one of several trainings that follow each other under one key."""
        return Checkpoints(self.folder / name, self.root, self.clock)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def open_checkpoints(root: Path, key: str, is_main_process: bool = True) -> Iterator[Checkpoints]:
    """The checkpoints of a key, locked against a second run; cleared when the block ends without an error.

    Raises:
        RuntimeError: if another run holds the key.
    """
    checkpoints = Checkpoints(root / key)
    if not is_main_process:
        yield checkpoints
        return
    root.mkdir(parents=True, exist_ok=True)
    lock_path = root / f"{key}.lock"
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"{lock_path}: another run trains with the same params and inputs; wait for it to end, "
                               "or stop it, and start again") from error
        yield checkpoints
        checkpoints.clear()
        lock_path.unlink(missing_ok=True)


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
