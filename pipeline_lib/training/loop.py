"""The training loop of every recommender: epochs, clipping, schedule, early stopping, checkpoints, several processes.

A model is an ``nn.Module`` whose ``forward(batch)`` returns ``(loss_sum, count)``: the loss summed over this process's
share of the batch and the number of terms in it. The loop divides by the count of the whole batch, so that one process
and several compute the same step.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm import tqdm

from pipeline_lib.params import TrainingParams
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.early_stopping import EarlyStopping
from pipeline_lib.training.live import live_curves

log = logging.getLogger(__name__)
Batches = Callable[[int], Sequence[np.ndarray]]
FEW_STEPS = 150  # fewer are warned of: SETRec on ml-100k had recall@10 .112 after 48 steps, .168 after 390


@dataclass(frozen=True)
class Alternation:
    """What a model whose parts are trained in turns does beside an ordinary epoch; epochs count from 1.

    Args:
        begin: called before an epoch: say what trains in it, by ``requires_grad``.
        end: called after it, before validation: figures for the epoch's row.
        validated: whether an epoch may be validated, and so be the best one.
        rate_share: a parameter's name -> what its learning rate is, as a share of the schedule's.
    """

    begin: Callable[[int], None]
    end: Callable[[int], Mapping[str, float]]
    validated: Callable[[int], bool]
    rate_share: Callable[[str], float]


def fit(model: nn.Module, *, batches: Batches, collate: Callable[[np.ndarray], dict[str, Tensor]],
        validate: Callable[[nn.Module], dict[str, float]], held_out: Sized, params: TrainingParams,
        checkpoints: Checkpoints, accelerator: Accelerator,
        alternation: Alternation | None = None) -> list[dict[str, float]]:
    """Train a model in place; it ends with the weights of its best epoch, of the last one where nobody is held out.

    Args:
        model: see the module's docstring.
        batches: epoch -> index arrays, one a step, the same on every process.
        collate: index array -> the tensors that ``model`` takes; may be empty of rows.
        validate: model -> figures, ``params.early_stopping`` among them.
        held_out: what ``validate`` looks at; it is not called where this is empty, and all epochs are trained.
        params: sizes, rates and patience.
        checkpoints: where an epoch's end is kept, and found again after a kill.
        accelerator: from `pipeline_lib.training.device`.
        alternation: for models whose parts take turns; None trains all of it in every epoch.

    Returns:
        A row an epoch: epoch, step, learning_rate, train_loss and the validation figures.

    Raises:
        ValueError: if no epoch may be validated, or the loss is not finite.
    """
    model.to(accelerator.device)
    turns = alternation or Alternation(lambda epoch: None, lambda epoch: {}, lambda epoch: True, lambda name: 1.0)
    validated = _validated_epochs(params, turns.validated)
    optimizer = torch.optim.AdamW(_parameter_groups(model, params.weight_decay, turns.rate_share),
                                  lr=params.learning_rate)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    steps_per_epoch = len(batches(1))
    if params.epochs * steps_per_epoch < FEW_STEPS:
        log.warning("%d epochs of %d steps are few to learn from; lower training.batch_size (%d) or train more epochs",
                    params.epochs, steps_per_epoch, params.batch_size)
    stopping = EarlyStopping(params.early_stopping, params.patience)
    best = {name: value.detach().clone() for name, value in model.state_dict().items()}
    rows, start = _resume(checkpoints, model, optimizer, stopping, best, accelerator)
    if start == 1 and not accelerator.is_main_process:  # all began with one seed, and would drop out the same
        torch.manual_seed(torch.initial_seed() + accelerator.process_index)
    accelerator.wait_for_everyone()  # a finished training ends here, and the main process then removes what others read
    with live_curves(checkpoints.root.with_name("live"), accelerator.is_main_process) as show:
        for epoch in range(start, params.epochs + 1):
            if stopping.exhausted:
                break
            began = time.perf_counter()
            turns.begin(epoch)
            trained_on = _train_epoch(wrapped, optimizer, batches(epoch), collate, params, accelerator,
                                      step=(epoch - 1) * steps_per_epoch, total=params.epochs * steps_per_epoch)
            row = {"epoch": epoch, **trained_on, **turns.end(epoch)}
            trained = time.perf_counter()
            if epoch in validated:
                model.eval()
                measured = validate(model) if len(held_out) else {}
                measured = broadcast_object_list([measured])[0]  # of one process: all choose the same epoch
                row |= {f"valid_{name}": value for name, value in measured.items()}
                if stopping.update(epoch, measured):
                    best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            rows.append(row)
            show(row)
            log.info("epoch %d: %s (%.1f s training, %.1f s validation)", epoch,
                     ", ".join(f"{name} {value:.5g}" for name, value in row.items() if name != "epoch"),
                     trained - began, time.perf_counter() - trained)
            random = _random_states(accelerator)
            if accelerator.is_main_process:
                _save(checkpoints, model, optimizer, stopping, best, rows, random)
            accelerator.wait_for_everyone()
    model.load_state_dict(best)
    accelerator.free_memory()  # it keeps each optimizer that it prepared, and another training may follow
    log.info("kept epoch %d of %d, %s", stopping.best_epoch, len(rows),
             f"the best by {params.early_stopping}" if len(held_out) else "nobody being held out to choose on")
    return rows


def learning_rate_factor(step: int, total: int, warmup_share: float, schedule: str) -> float:
    """What the learning rate is multiplied by at a step, counted from 0: linear warm-up, then the schedule.

    ``cosine`` falls to 0 at ``total``; ``inverse_sqrt`` as in Raffel et al. 2020 (T5), 1 at the end of the warm-up.
    """
    warmup = max(1, round(total * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt(warmup / (step + 1))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    raise ValueError(f"params: training.schedule is {schedule}; known: cosine, inverse_sqrt, constant")


def _validated_epochs(params: TrainingParams, allowed: Callable[[int], bool]) -> set[int]:
    """Every ``validate_every``-th epoch, or the next behind it that may be validated, and the last that may be."""
    epochs, due, last = set(), False, 0
    for epoch in range(1, params.epochs + 1):
        due = due or epoch % params.validate_every == 0
        if allowed(epoch):
            last = epoch
            if due:
                epochs.add(epoch)
                due = False
    if params.epochs and not last:
        raise ValueError(f"params: training.epochs is {params.epochs}, and none of them leaves a model that may be kept, "
                         "since parts of it that the others build on train in each; train more epochs")
    return epochs | {last}


def _train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[np.ndarray],
                 collate: Callable[[np.ndarray], dict[str, Tensor]], params: TrainingParams, accelerator: Accelerator,
                 *, step: int, total: int) -> dict[str, float]:
    model.train()
    sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    rank, processes = accelerator.process_index, accelerator.num_processes
    quiet = None if accelerator.is_main_process else True  # None: where no terminal is looked at
    for batch in tqdm(batches, desc="training", unit="batch", leave=False, mininterval=1.0, disable=quiet):
        rate = params.learning_rate * learning_rate_factor(step, total, params.warmup_share, params.schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_share"]
        share = {name: value.to(accelerator.device) for name, value in collate(batch[rank::processes]).items()}
        with accelerator.autocast():
            loss_sum, count = model(share)
        if not isinstance(count, Tensor):
            count = torch.full((), count, device=accelerator.device)  # made there: a copy would wait for the GPU
        counts = accelerator.reduce(count.float(), "sum")
        accelerator.backward(loss_sum * processes / counts)  # gradients are averaged over processes
        accelerator.clip_grad_norm_(model.parameters(), params.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        sums += torch.stack([loss_sum.detach().double(), count.double()])
        step += 1
    sums = accelerator.reduce(sums, "sum")
    loss = float(sums[0] / sums[1])
    if not math.isfinite(loss):
        raise ValueError(f"training loss is {loss} after step {step}; lower training.learning_rate or take "
                         "training.precision=fp32")
    return {"step": step, "learning_rate": rate, "train_loss": loss}


def _parameter_groups(model: nn.Module, weight_decay: float,
                      rate_share: Callable[[str], float]) -> list[dict[str, Any]]:
    """Weight decay for matrices alone; not for biases and norms."""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1
            group = {"params": [], "weight_decay": weight_decay * decays, "rate_share": rate_share(name)}
            groups.setdefault((rate_share(name), decays), group)["params"].append(parameter)
    return list(groups.values())


def _save(checkpoints: Checkpoints, model: nn.Module, optimizer: torch.optim.Optimizer, stopping: EarlyStopping,
          best: dict[str, Tensor], rows: list[dict[str, float]], random: dict[str, Tensor]) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {f"random.{device}": states for device, states in random.items()}
    checkpoints.save(tensors, {"rows": rows, "stopping": asdict(stopping)})


def _resume(checkpoints: Checkpoints, model: nn.Module, optimizer: torch.optim.Optimizer, stopping: EarlyStopping,
            best: dict[str, Tensor], accelerator: Accelerator) -> tuple[list[dict[str, float]], int]:
    """Put everything back as the last checkpoint left it; returns the rows so far and the next epoch."""
    found = checkpoints.load()
    if found is None:
        return [], 1
    tensors, state = found
    model.load_state_dict(_below(tensors, "model."))
    for name, value in _below(tensors, "best.").items():
        best[name].copy_(value)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimizer.").items():
        place, field = name.split(".", 1)
        moments.setdefault(int(place), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    for name, value in state["stopping"].items():
        setattr(stopping, name, value)
    for device, states in _below(tensors, "random.").items():
        own = states[accelerator.process_index % len(states)].clone()  # torch misreads a row of a table
        if device == "cpu":
            torch.set_rng_state(own)
        elif accelerator.device.type == device:
            torch.cuda.set_rng_state(own)
    log.info("resuming after epoch %d from %s", len(state["rows"]), checkpoints.folder)
    return state["rows"], len(state["rows"]) + 1


def _random_states(accelerator: Accelerator) -> dict[str, Tensor]:
    """A device -> the state of its generator in each process, ``(processes, bytes)``: they part, as their shares do."""
    states = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return {device: accelerator.gather(state[None].to(accelerator.device)).cpu() for device, state in states.items()}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
