"""Train the embedded Qwen2.5-VL: `python -m benchmarks.reading.train --output FOLDER`.

The stages (see learners.py) run one after another, each in two processes of one thread that average their gradients.
An interrupted run goes on from its snapshots. A run is determined by its seed and its steps on one machine.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.training.folder import replaced_when_complete, train_command, write_report
from benchmarks.training.loop import Run, Stage, join_stages, train_stage

from .architecture import build_model, export_checkpoint
from .learners import LanguageLearner, SightLearner, write_scenes

PROCESSES = 2
SIGHT_TOKENS, LANGUAGE_BATCH = 650, 16
# Of a tower's scenes, so many are drawn for each step of `tune`.
SCENES_A_STEP = 3.2
# A constant rate that falls at the end.
CONSTANT = 10**9
SIGHT = Stage("sight", 11, 4800, 1.5e-3, 3e-3, warm_up=40, horizon=CONSTANT, cool_down=800)
IMITATE = Stage("imitate", 12, 1500, 2e-3, 3e-3, warm_up=40, horizon=CONSTANT, cool_down=500)
TUNE = Stage("tune", 13, 2500, 1.5e-3, 2e-3, warm_up=40)


def train(rank: int, run: Run) -> None:
    """Run all stages from their snapshots to their ends, as one of the processes."""
    torch.set_num_threads(1)
    store = _store(run).resolve().as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    learner = SightLearner(build_model(run.seed), SIGHT_TOKENS // PROCESSES)
    train_stage(run, SIGHT, learner, learner.loss)
    reader = LanguageLearner(build_model(run.seed), LANGUAGE_BATCH // PROCESSES)
    train_stage(run, IMITATE, reader, reader.loss, position=1)
    model = join_stages(build_model(run.seed), run, SIGHT, IMITATE, ("model.visual.",))
    written = write_scenes(model, round(SCENES_A_STEP * TUNE.steps / PROCESSES), [run.seed, 14, rank])
    reader = LanguageLearner(model, LANGUAGE_BATCH // PROCESSES, written)
    train_stage(run, TUNE, reader, reader.loss)
    dist.destroy_process_group()


def _store(run: Run) -> Path:
    """The file by which the processes find each other."""
    return run.folder / "processes"


def main() -> None:
    """Train and write the checkpoint with its report."""
    output, run = train_command(__doc__, "runs/reading")
    run.folder.mkdir(parents=True, exist_ok=True)
    _store(run).unlink(missing_ok=True)
    mp.spawn(train, (run,), nprocs=PROCESSES)
    with replaced_when_complete(output) as folder:
        export_checkpoint(join_stages(build_model(run.seed), run, TUNE, TUNE, ()), folder)
        batches = {"sight, in tokens": SIGHT_TOKENS, "imitate, tune": LANGUAGE_BATCH}
        write_report(folder, "python -m benchmarks.reading.train", run, (SIGHT, IMITATE, TUNE), batches)


if __name__ == "__main__":
    main()
