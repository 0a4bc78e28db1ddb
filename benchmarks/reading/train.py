"""Train the embedded Qwen2.5-VL: `python -m benchmarks.reading.train --output FOLDER`.

The stages (see learners.py) run one after another, each in two processes of one thread that average their gradients.
An interrupted run goes on from its snapshots. A run is determined by its seed and its steps on one machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.training.folder import replaced_when_complete, stage_reports, write_json
from benchmarks.training.loop import Run, Stage, join_stages, train_stage
from mmtok.measuring import machine

from .architecture import build_model
from .export import export_checkpoint
from .learners import LanguageLearner, SightLearner, write_scenes

NAMES = ("sight", "imitate", "tune")
STEPS = (4800, 1500, 2500)
PROCESSES = 2
SIGHT_TOKENS, LANGUAGE_BATCH = 650, 16
# Of a tower's scenes, so many are drawn for each step of `tune`.
SCENES_A_STEP = 3.2
CONSTANT = 10**9


def plan(steps: Sequence[int] = STEPS) -> tuple[Stage, Stage, Stage]:
    """The stages with so many steps: the first two at a constant rate that falls at the end, the last in a cosine."""
    sight, imitate, tune = steps
    return (
        Stage("sight", 11, sight, 1.5e-3, 3e-3, warm_up=40, horizon=CONSTANT, cool_down=sight // 6),
        Stage("imitate", 12, imitate, 2e-3, 3e-3, warm_up=40, horizon=CONSTANT, cool_down=imitate // 3),
        Stage("tune", 13, tune, 1.5e-3, 2e-3, warm_up=40),
    )


def train_one(name: str, run: Run, stages: tuple[Stage, Stage, Stage]) -> None:
    """Run one stage, in this process or as one of several."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    sight, imitate, tune = stages
    batch = LANGUAGE_BATCH // processes
    if name == "sight":
        learner = SightLearner(build_model(run.seed), SIGHT_TOKENS // processes)
        train_stage(run, sight, learner, learner.loss)
    elif name == "imitate":
        reader = LanguageLearner(build_model(run.seed), batch)
        train_stage(run, imitate, reader, reader.loss, position=1)
    else:
        model = join_stages(build_model(run.seed), run, sight, imitate, ("model.visual.",))
        written = write_scenes(model, round(SCENES_A_STEP * tune.steps / processes), [run.seed, 14, rank])
        reader = LanguageLearner(model, batch, written)
        train_stage(run, tune, reader, reader.loss)


def _process(rank: int, names: Sequence[str], run: Run, stages: tuple[Stage, Stage, Stage], processes: int) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        store = _store(run, names).as_uri()
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    for name in names:
        train_one(name, run, stages)
    if processes > 1:
        dist.destroy_process_group()


def _store(run: Run, names: Sequence[str]) -> Path:
    """The file by which the processes find each other."""
    return (run.folder / f"{'-'.join(names)}.processes").resolve()


def train(
    run: Run, stages: tuple[Stage, Stage, Stage], names: Sequence[str] = NAMES, processes: int = PROCESSES
) -> None:
    """Run stages from their snapshots to their ends."""
    run.folder.mkdir(parents=True, exist_ok=True)
    _store(run, names).unlink(missing_ok=True)
    mp.spawn(_process, (names, run, stages, processes), nprocs=processes)


def write_checkpoint(run: Run, stages: tuple[Stage, Stage, Stage], output: Path) -> None:
    """Write the model as it is after the last stage, with a report of how it was trained."""
    model = join_stages(build_model(run.seed), run, stages[2], stages[2], ())
    report = {
        "command": "python -m benchmarks.reading.train",
        "seed": run.seed,
        "stages": stage_reports(run, stages),
        "batch_sizes": {"sight, in tokens": SIGHT_TOKENS, "imitate, tune": LANGUAGE_BATCH},
        "machine": machine(),
    }
    with replaced_when_complete(output) as folder:
        export_checkpoint(model, folder)
        write_json(folder / "training_report.json", report)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the checkpoint with its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--run-folder", type=Path, default=Path("runs/reading"), help="where snapshots are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=3, default=STEPS, metavar="N", help="of the stages")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--only", choices=NAMES, help="run this stage alone and write no checkpoint")
    options = parser.parse_args(arguments)
    run, stages = Run(options.run_folder, seed=options.seed), plan(options.steps)
    train(run, stages, [options.only] if options.only else NAMES, options.processes)
    if not options.only:
        write_checkpoint(run, stages, options.output)


if __name__ == "__main__":
    main()
