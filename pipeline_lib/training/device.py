"""Where torch runs: SIDFLOW_DEVICE (auto, cpu, cuda), through Accelerate, in one process or several."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

PRECISIONS = {"fp32": "no", "bf16": "bf16"}


def make_accelerator(precision: str) -> Accelerator:
    """An Accelerator for the device that SIDFLOW_DEVICE names, in the given precision (fp32 or bf16).

    Raises:
        ValueError: for an unknown precision or device, or for cuda where there is none.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"params: training.precision is {precision}; known: {', '.join(PRECISIONS)}")
    device = use_device()
    AcceleratorState._reset_state(reset_partial_state=False)  # one process may train twice, in two precisions
    # in several processes: where the parts of a model take turns, some weights have no gradient in an epoch; buffers are
    # vectors of all items, equal in all processes, and would be sent before every step
    several = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=PRECISIONS[precision],
                       kwargs_handlers=[several])


def use_device() -> torch.device:
    """The device that SIDFLOW_DEVICE names, ``auto`` being a GPU where there is one; on a CPU torch sums in one order.

    Without that, gradients of rows that are taken several times are summed as the threads come, and equal seeds train
    models that differ in the last bits where other work shares the cores. On a GPU it would cost time, and some
    operations have no such order.

    Raises:
        ValueError: for an unknown device, or for cuda where there is none.
    """
    device = os.environ.get("SIDFLOW_DEVICE", "auto")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"SIDFLOW_DEVICE is {device}; expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("SIDFLOW_DEVICE is cuda, but torch sees no GPU; set SIDFLOW_DEVICE=auto or cpu")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    torch.use_deterministic_algorithms(chosen.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # else new memory is filled, too, lest it is read unset
    return chosen
