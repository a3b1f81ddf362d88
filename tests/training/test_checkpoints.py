import os

import pytest
import torch

from pipeline_lib.training.checkpoints import Checkpoints, checkpoint_key, checkpoint_root, open_checkpoints


def test_the_last_state_saved_is_the_one_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.load() is None
    for epoch in (1, 2):
        checkpoints.save({"w": torch.full((2,), float(epoch))}, {"epoch": epoch})
    tensors, state = checkpoints.load()
    assert (tensors["w"].tolist(), state) == ([2.0, 2.0], {"epoch": 2})


def test_a_kill_while_a_state_is_saved_keeps_the_one_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "key")
    checkpoints.save({"weight": torch.zeros(2)}, {"epoch": 1})

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save({"weight": torch.ones(2)}, {"epoch": 2})
    tensors, state = checkpoints.load()
    assert tensors["weight"].tolist() == [0, 0] and state == {"epoch": 1}


def test_a_key_follows_params_and_every_byte_of_the_inputs(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.bin").write_bytes(b"1")
    first = checkpoint_key("finetune", {"lr": 1}, [tmp_path / "a"])
    assert checkpoint_key("finetune", {"lr": 1}, [tmp_path / "a"]) == first
    assert checkpoint_key("finetune", {"lr": 2}, [tmp_path / "a"]) != first
    (tmp_path / "a" / "x.bin").write_bytes(b"2")
    assert checkpoint_key("finetune", {"lr": 1}, [tmp_path / "a"]) != first


def test_seconds_are_counted_over_processes_and_parts(tmp_path):
    first, second, third = (Checkpoints(tmp_path / "run") for _ in range(3))
    first.clock.began -= 100
    first.part("one").save({}, {})
    first.clock.began -= 50  # lost with the process
    second.part("one").load()
    second.clock.began -= 20
    second.part("two").save({}, {})
    for name in ("two", "one"):
        third.part(name).load()
    assert third.clock.earlier == pytest.approx(120, abs=5)


def test_two_runs_with_one_key_lock_each_other_out(tmp_path):
    with open_checkpoints(tmp_path, "key"):
        with (pytest.raises(RuntimeError, match="another run trains with the same params"),
              open_checkpoints(tmp_path, "key")):
            pytest.fail("the second run was let in")
        with open_checkpoints(tmp_path, "other") as other:
            assert other.load() is None


def test_success_clears_and_failure_keeps(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_checkpoints(tmp_path, "key") as checkpoints:
        checkpoints.save({"w": torch.ones(1)}, {})
        raise KeyboardInterrupt
    with open_checkpoints(tmp_path, "key") as checkpoints:
        assert checkpoints.load() is not None
    assert list(tmp_path.iterdir()) == []


def test_queued_runs_share_the_main_repositorys_checkpoints(monkeypatch, tmp_path):
    monkeypatch.delenv("SIDFLOW_CHECKPOINTS", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert checkpoint_root() == tmp_path / ".sidflow" / "checkpoints"
    monkeypatch.setenv("SIDFLOW_CHECKPOINTS", str(tmp_path / "elsewhere"))
    assert checkpoint_root() == tmp_path / "elsewhere"
