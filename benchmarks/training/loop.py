"""The training loop: seeded, with a progress bar, and going on from its last snapshot after an interruption.

Every batch is drawn from (seed, stage, step) and every schedule counts steps, so a stage is determined by its seed on
one machine, and one that was interrupted reaches the weights that it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

LAST_RATE = 0.02
# Parts of the names of hidden matrices: those inside transformer layers and between tower and language model.
_HIDDEN = (".layers.", ".blocks.", "projector", "merger.mlp")
ModelT = TypeVar("ModelT", bound=nn.Module)
Loss = Callable[[np.random.Generator, float], tuple[torch.Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Stage:
    """How a stage is run.

    Attributes:
        name: what the snapshot and the progress bar are called.
        number: tells its random numbers from those of the other stages.
        steps: how many.
        rate: peak learning rate of AdamW, for all that is not a hidden matrix.
        matrix_rate: peak learning rate of Muon, for the hidden matrices.
        warm_up: steps until the peak.
        horizon: the step at which the rate would reach its lowest; 0 for the last one.
        cool_down: the last steps, in which the rate also falls in a straight line; 0 for none.
    """

    name: str
    number: int
    steps: int
    rate: float
    matrix_rate: float
    warm_up: int = 30
    horizon: int = 0
    cool_down: int = 0


@dataclass(frozen=True)
class Run:
    """Where snapshots are kept, the seed, and how often a snapshot is written, in steps."""

    folder: Path
    seed: int = 0
    snapshot_every: int = 100


def snapshot_path(run: Run, stage: Stage) -> Path:
    """The file that a stage goes on from, and that holds its result."""
    return run.folder / f"{stage.name}.pt"


def rate_factor(stage: Stage, step: int) -> float:
    """Scale the peak rate at a step: a linear warm-up, then a cosine from 1 to `LAST_RATE` at the horizon.

    A stage with a cool-down ends at `LAST_RATE` before its horizon.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * step / (stage.horizon or stage.steps)))
    falling = min(1.0, (stage.steps - step) / stage.cool_down) if stage.cool_down else 1.0
    return min(1.0, (step + 1) / stage.warm_up) * max(LAST_RATE, falling * (LAST_RATE + (1 - LAST_RATE) * cosine))


def train_stage(run: Run, stage: Stage, learner: nn.Module, loss: Loss, position: int = 0) -> float:
    """Run a stage, from its snapshot where there is one, and return its seconds; a finished one is only loaded.

    Args:
        run: seed and folder.
        stage: steps and rates.
        learner: what its trainable parameters are taken from; its state is what a snapshot holds.
        loss: (generator, share of the stage that is done) -> a scalar and what the log shows.
        position: line of the progress bar.

    Raises:
        ValueError: the snapshot belongs to a run with another seed or stage.
    """
    optimizers = make_optimizers(stage, learner)
    path = snapshot_path(run, stage)
    start, before = _resume(path, run, stage, learner, optimizers)
    began = time.perf_counter()
    # Of several processes, each draws its own batches and all take the same steps.
    shard = [dist.get_rank()] if dist.is_initialized() else []
    first = not any(shard)
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    bar = tqdm(
        range(start, stage.steps),
        stage.name,
        initial=start,
        total=stage.steps,
        position=position,
        mininterval=2,
        disable=not first,
    )
    for step in bar:
        _set_rates(optimizers, rate_factor(stage, step))
        rng = np.random.default_rng([run.seed, stage.number, step, *shard])
        with mixed_precision():
            value, shown = loss(rng, step / stage.steps)
        for optimizer in optimizers:
            optimizer.zero_grad()
        value.backward()
        if shard:
            _average_gradients(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 25 == 24 and first:
            bar.write(f"{stage.name} {step + 1} loss {value.item():.3f} " + _listed(shown))
        if first and ((step + 1) % run.snapshot_every == 0 or step + 1 == stage.steps):
            seconds = before + time.perf_counter() - began
            _save(path, run, stage, learner, optimizers, step + 1, seconds)
    if shard:
        dist.barrier()
    return before + time.perf_counter() - began


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over the processes."""
    flat = torch.cat([p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def join_stages(model: ModelT, run: Run, sight: Stage, language: Stage, tower: tuple[str, ...]) -> ModelT:
    """Load the parameters whose names begin as in `tower` from the end of one stage, and the others from another's."""
    states = [torch.load(snapshot_path(run, stage), weights_only=True)["learner"] for stage in (sight, language)]
    names = model.state_dict()
    model.load_state_dict({name: states[not name.startswith(tower)][f"model.{name}"] for name in names})
    return model


def compute_dtype() -> torch.dtype:
    """What matrices are multiplied in: bfloat16 on processors with AVX-512, else float32, which is faster there."""
    return torch.bfloat16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else torch.float32


def mixed_precision() -> torch.autocast:
    """The context that losses are computed in."""
    return torch.autocast("cpu", torch.bfloat16, enabled=compute_dtype() == torch.bfloat16)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, its updates scaled to the root mean square of AdamW's (Liu et al. 2025).

    PyTorch's own computes in bfloat16 everywhere, which takes ten times as long on processors without AVX-512.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                buffer = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = _orthogonalized(matrix.grad.lerp(buffer, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def _orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values of about 1, by five steps of Newton and Schulz."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).to(compute_dtype())
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.775 * gram + 2.0315 * gram @ gram) @ wide
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)


def make_optimizers(stage: Stage, learner: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer layers and the projector, AdamW for everything else that is trained."""
    named = [(name, parameter) for name, parameter in learner.named_parameters() if parameter.requires_grad]
    hidden = [p for name, p in named if p.ndim == 2 and any(part in name for part in _HIDDEN)]
    others = [p for _, p in named if all(p is not matrix for matrix in hidden)]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98)),
        Muon(hidden, lr=stage.matrix_rate, weight_decay=0.02),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def train_only(module: nn.Module, fragments: Iterable[str]) -> None:
    """Freeze every parameter whose name has none of the fragments."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(fragment in name for fragment in fragments))


def _set_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]


def _fingerprint(run: Run, stage: Stage) -> dict[str, Any]:
    return {"seed": run.seed, **asdict(stage)}


def _save(
    path: Path,
    run: Run,
    stage: Stage,
    learner: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    seconds: float,
) -> None:
    """Write the snapshot beside the old one and put it in its place, so that a kill leaves one of the two whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "run": _fingerprint(run, stage),
        "learner": learner.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "seconds": seconds,
    }
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(path)


def _resume(
    path: Path, run: Run, stage: Stage, learner: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    if state["run"] != _fingerprint(run, stage):
        raise ValueError(
            f"{path} belongs to a run with another seed or stage ({state['run']}). Delete it to start again, or name "
            "another --run-folder."
        )
    learner.load_state_dict(state["learner"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def _listed(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in values.items())
