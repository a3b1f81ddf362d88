"""Equal seeds, equal bits: also on several threads, and where other work shares the cores."""

import os
import subprocess
import sys

import pytest
import torch

from pipeline_lib.training.device import use_device

BUSY = "while True: pass"


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def busy_cores():
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.usefixtures("two_threads", "busy_cores")
def test_gradients_of_rows_taken_several_times_are_equal_to_the_bit_on_busy_cores(monkeypatch):
    """Two threads share the rows in the middle; without an order three gradients in four differed from the first."""
    monkeypatch.setenv("SIDFLOW_DEVICE", "cpu")
    assert use_device().type == "cpu"
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(130).remainder(33).sort().values
    table, upstream = torch.randn(33, 4, 128, generator=generator), torch.randn(130, 4, 128, generator=generator)

    def gradient() -> torch.Tensor:
        leaf = table.clone().requires_grad_()
        leaf[rows].backward(upstream)
        return leaf.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(300))


@pytest.mark.parametrize(("value", "message"), [("gpu", "SIDFLOW_DEVICE is gpu; expected auto, cpu or cuda"),
                                                ("cuda", "torch sees no GPU")])
def test_a_device_that_is_not_there_is_refused(monkeypatch, value, message):
    monkeypatch.setenv("SIDFLOW_DEVICE", value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        use_device()
