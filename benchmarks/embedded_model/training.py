"""Train the embedded model: `python -m benchmarks.embedded_model.training --output FOLDER`.

Every batch is drawn from (seed, stage, step) and every schedule counts steps, so a run is determined by its seed on one
machine, and one that was interrupted goes on from its last snapshot to the weights it would have had.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .export import export_checkpoint, replaced_when_complete
from .held_out import evaluate
from .report import build_report, require_targets
from .stages import STAGES, Learner, Stage, part_of

WARM_UP_STEPS = 100
LAST_RATE = 0.03


@dataclass(frozen=True)
class Run:
    """Where a run keeps its snapshot and how it computes."""

    folder: Path
    seed: int = 0
    snapshot_every: int = 100
    precision: torch.dtype = torch.bfloat16

    @property
    def snapshot(self) -> Path:
        """The file from which an interrupted run goes on."""
        return self.folder / "snapshot.pt"


def train(run: Run, stages: Sequence[Stage] = STAGES) -> tuple[Learner, dict[str, float]]:
    """Run all stages, from the snapshot where there is one; return the learner and each stage's seconds."""
    learner = Learner(run.seed)
    state = _load_snapshot(run, stages)
    seconds: dict[str, float] = {}
    first = 0
    if state is not None:
        learner.load_state_dict(state["learner"])
        seconds, first = state["seconds"], state["stage"]
    for index in range(first, len(stages)):
        resumed = state if state is not None and index == first else None
        _train_stage(run, stages, index, learner, resumed, seconds)
    return learner.eval(), seconds


def _train_stage(
    run: Run,
    stages: Sequence[Stage],
    index: int,
    learner: Learner,
    resumed: dict[str, Any] | None,
    seconds: dict[str, float],
) -> None:
    stage = stages[index]
    optimizer = _optimizer(learner, stage)
    start = 0
    if resumed is not None:
        start = resumed["step"]
        if resumed["optimizer"] is not None:
            optimizer.load_state_dict(resumed["optimizer"])
    learner.train()
    before, began = seconds.get(stage.name, 0.0), time.perf_counter()
    progress = tqdm(range(start, stage.steps), desc=stage.name, initial=start, total=stage.steps, mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(step, stage.horizon or stage.steps)
        rng = np.random.default_rng([run.seed, index, step])
        with torch.autocast("cpu", dtype=run.precision, enabled=run.precision != torch.float32):
            loss, shares = stage.loss(learner, rng, stage.batch_size)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in learner.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        if step % 50 == 49:
            progress.write(f"{stage.name} {step + 1} loss {loss.item():.3f} " + _shares(shares))
        if (step + 1) % run.snapshot_every == 0 and step + 1 < stage.steps:
            seconds[stage.name] = before + time.perf_counter() - began
            _save_snapshot(run, stages, learner, seconds, stage=index, step=step + 1, optimizer=optimizer)
    seconds[stage.name] = before + time.perf_counter() - began
    _save_snapshot(run, stages, learner, seconds, stage=index + 1, step=0, optimizer=None)


def rate_factor(step: int, horizon: int) -> float:
    """Scale the peak learning rate: a linear warm-up, times a cosine from 1 down to `LAST_RATE` at `horizon`."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / horizon))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def _optimizer(learner: Learner, stage: Stage) -> torch.optim.Optimizer:
    """Freeze what the stage does not train and optimize the rest at its rates."""
    groups: dict[str, list[torch.nn.Parameter]] = {part: [] for part in stage.rates}
    for name, parameter in learner.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in stage.rates)
        if part in stage.rates:
            groups[part].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[part], "peak": rate} for part, rate in stage.rates.items()],
        weight_decay=0.02,
        betas=(0.9, 0.98),
    )


def _fingerprint(run: Run, stages: Sequence[Stage]) -> list[Any]:
    """What has to be equal for a snapshot within these stages to belong to this run."""
    return [
        run.seed,
        str(run.precision),
        *([s.name, s.steps, s.batch_size, s.horizon, sorted(s.rates.items())] for s in stages),
    ]


def _save_snapshot(
    run: Run,
    stages: Sequence[Stage],
    learner: Learner,
    seconds: dict[str, float],
    *,
    stage: int,
    step: int,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """Write the snapshot beside the old one and put it in its place, so that a kill leaves one of the two whole."""
    run.folder.mkdir(parents=True, exist_ok=True)
    state = {
        "run": _fingerprint(run, stages[: stage + 1 if step else stage]),
        "learner": learner.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "stage": stage,
        "step": step,
        "seconds": seconds,
    }
    unfinished = run.snapshot.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(run.snapshot)


def _load_snapshot(run: Run, stages: Sequence[Stage]) -> dict[str, Any] | None:
    if not run.snapshot.exists():
        return None
    state = torch.load(run.snapshot, weights_only=True)
    reached = len(state["run"]) - len(_fingerprint(run, ()))
    if state["run"] != _fingerprint(run, stages[:reached]):
        raise ValueError(
            f"{run.snapshot} belongs to a run with another seed, precision or stages ({state['run']}). "
            "Delete it to start again, or name another --run-folder."
        )
    return state


def _shares(shares: dict[str, float]) -> str:
    return " ".join(f"{name} {share:.3f}" for name, share in shares.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure on held-out scenes, and write the checkpoint with its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--run-folder", type=Path, default=Path("runs/tiny"), help="where the snapshot is kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--precision",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="of the matrix products; bfloat16 is fast where the processor has avx512_bf16 or amx",
    )
    parser.add_argument("--questions", type=int, default=2000, help="held-out questions to measure accuracy with")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    run = Run(options.run_folder, seed=options.seed, precision=getattr(torch, options.precision))
    learner, seconds = train(run)
    with replaced_when_complete(options.output) as folder:
        export_checkpoint(learner.model, folder)
        scores = evaluate(folder, options.questions)
        report = build_report(
            STAGES, seconds, scores, seed=run.seed, precision=options.precision, questions=options.questions
        )
        text = json.dumps(report, indent=2) + "\n"
        print(text)
        require_targets(scores)
        (folder / "training_report.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
