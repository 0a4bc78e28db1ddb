"""Train the embedded Qwen2.5-VL: `python -m benchmarks.reading.train --output FOLDER`.

The stages (see learners.py) run one after another, each in two processes of one thread that average their gradients.
An interrupted run goes on from its snapshots. A run is determined by its seed on one machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.training.folder import replaced_when_complete, stage_reports, write_json
from benchmarks.training.loop import Run, Stage, join_stages, snapshot_path, train_stage
from mmtok.machine import machine

from .architecture import build_model
from .export import export_checkpoint
from .learners import LanguageLearner, SightLearner, write_scenes

PROCESSES = 2
CONSTANT = 10**9
SIGHT = Stage("sight", 11, 4800, rate=1.5e-3, matrix_rate=3e-3, warm_up=40, horizon=CONSTANT, cool_down=800)
SIGHT_TOKENS = 650
IMITATE = Stage("imitate", 12, 1500, rate=2e-3, matrix_rate=3e-3, warm_up=40, horizon=CONSTANT, cool_down=500)
TUNE = Stage("tune", 13, 2500, rate=1.5e-3, matrix_rate=2e-3, warm_up=40)
LANGUAGE_BATCH = 16
TUNE_SCENES = 8000
STAGES = (SIGHT, IMITATE, TUNE)


def _processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def train_sight(run: Run) -> None:
    """Run the stage `sight`."""
    learner = SightLearner(build_model(run.seed), SIGHT_TOKENS // _processes())
    train_stage(run, SIGHT, learner, learner.loss)


def train_imitate(run: Run) -> None:
    """Run the stage `imitate`."""
    learner = LanguageLearner(build_model(run.seed), LANGUAGE_BATCH // _processes())
    train_stage(run, IMITATE, learner, learner.loss, position=1)


def train_tune(run: Run) -> None:
    """Run the stage `tune`."""
    model = join_stages(build_model(run.seed), run, SIGHT, IMITATE, ("model.visual.",))
    rank = dist.get_rank() if dist.is_initialized() else 0
    written = write_scenes(model, TUNE_SCENES // _processes(), [run.seed, 14, rank])
    learner = LanguageLearner(model, LANGUAGE_BATCH // _processes(), written)
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
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--stages", choices=list(TRAIN), nargs="+", default=list(TRAIN), help="run these alone")
    options = parser.parse_args(arguments)
    run = Run(options.run_folder, seed=options.seed)
    train(run, options.stages, options.processes)
    if options.output:
        write_checkpoint(run, options.output)


def write_checkpoint(run: Run, output: Path) -> None:
    """Write the model as it is after the last stage, with a report of how it was trained."""
    model = build_model(run.seed)
    state = torch.load(snapshot_path(run, TUNE), weights_only=True)["learner"]
    model.load_state_dict({name: state[f"model.{name}"] for name in model.state_dict()})
    report = {
        "command": "python -m benchmarks.reading.train",
        "seed": run.seed,
        "stages": stage_reports(run, STAGES),
        "batch_sizes": {"sight, in tokens": SIGHT_TOKENS, "imitate, tune": LANGUAGE_BATCH},
        "machine": machine(),
    }
    with replaced_when_complete(output) as folder:
        export_checkpoint(model, folder)
        write_json(folder / "training_report.json", report)


if __name__ == "__main__":
    main()
