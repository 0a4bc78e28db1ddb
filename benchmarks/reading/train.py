"""Train the embedded Qwen2.5-VL: `python -m benchmarks.reading.train --output FOLDER`.

The stages (see learners.py) run one after another, each in two processes of one thread that average their gradients.
An interrupted run goes on from its snapshots. A run is determined by its seed on one machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.objects.loop import Run, Stage, compute_dtype, snapshot_path, train_stage
from mmtok.machine import machine

from .architecture import build_model
from .learners import LanguageLearner, SightLearner, write_scenes

PROCESSES = 2
CONSTANT = 10**9
SIGHT = Stage("sight", 11, 4800, rate=1.5e-3, matrix_rate=3e-3, warm_up=40, horizon=CONSTANT, cool_down=800)
SIGHT_TOKENS = 325
IMITATE = Stage("imitate", 12, 1500, rate=2e-3, matrix_rate=3e-3, warm_up=40, horizon=CONSTANT, cool_down=500)
TUNE = Stage("tune", 13, 2500, rate=1.5e-3, matrix_rate=2e-3, warm_up=40)
LANGUAGE_BATCH = 8
TUNE_SCENES = 8000
STAGES = (SIGHT, IMITATE, TUNE)


def train_sight(run: Run) -> None:
    """Run the stage `sight`."""
    learner = SightLearner(build_model(run.seed), SIGHT_TOKENS)
    train_stage(run, SIGHT, learner, learner.loss)


def train_imitate(run: Run) -> None:
    """Run the stage `imitate`."""
    learner = LanguageLearner(build_model(run.seed), LANGUAGE_BATCH)
    train_stage(run, IMITATE, learner, learner.loss, position=1)


def train_tune(run: Run) -> None:
    """Run the stage `tune`."""
    model = build_model(run.seed)
    sight, language = (
        torch.load(snapshot_path(run, stage), weights_only=True)["learner"] for stage in (SIGHT, IMITATE)
    )
    parts = {name: (sight if ".visual." in name else language)[f"model.{name}"] for name in model.state_dict()}
    model.load_state_dict(parts)
    rank = dist.get_rank() if dist.is_initialized() else 0
    written = write_scenes(model, TUNE_SCENES // PROCESSES, [run.seed, 14, rank])
    learner = LanguageLearner(model, LANGUAGE_BATCH, written)
    train_stage(run, TUNE, learner, learner.loss)


TRAIN = {"sight": train_sight, "imitate": train_imitate, "tune": train_tune}


def _process(rank: int, run: Run, stages: Sequence[str], store: str, processes: int) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    for stage in stages:
        TRAIN[stage](run)
    if processes > 1:
        dist.destroy_process_group()


def train(run: Run, stages: Sequence[str] = tuple(TRAIN), processes: int = PROCESSES) -> None:
    """Run stages from their snapshots to their ends."""
    run.folder.mkdir(parents=True, exist_ok=True)
    store = (run.folder / f"processes-{'-'.join(stages)}").resolve()
    store.unlink(missing_ok=True)
    mp.spawn(_process, (run, stages, str(store), processes), nprocs=processes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the checkpoint with its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the checkpoint's folder")
    parser.add_argument("--run-folder", type=Path, default=Path("runs/reading"), help="where snapshots are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", choices=list(TRAIN), nargs="+", default=list(TRAIN), help="run these alone")
    options = parser.parse_args(arguments)
    train(Run(options.run_folder, seed=options.seed), options.stages)


if __name__ == "__main__":
    main()
