"""Train the embedded model: `python -m benchmarks.objects.train --output FOLDER`.

    sight      the vision tower and the projector write every patch as the word of what it shows   (see sight.py)
    words      the language model answers about a few patches that are written without a tower      (see language.py)
    language   the same up to whole images
    tuning     it goes on with what the tower writes, which stays as it is                           (see tuning.py)

`sight` and `language` need nothing of each other and run side by side, each with one thread. An interrupted run goes on
from its snapshots. The stages are those of `STAGES`; a run is determined by its seed on one machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from benchmarks.training.folder import replaced_when_complete, stage_reports, write_json
from benchmarks.training.loop import Run, Stage, join_stages, train_stage
from mmtok.measuring import machine
from mmtok.tiny.scenes import GRID

from .architecture import build_model
from .export import export_checkpoint
from .held_out import training_sheets
from .language import LanguageLearner
from .sight import SightLearner
from .tuning import TuningLearner, write_scenes

SIGHT = Stage("sight", 0, 1600, rate=1e-3, matrix_rate=3e-3, horizon=2400, cool_down=600)
SIGHT_BATCH = 48

# The rate is left high at the end of the first part: the second goes on from there.
WORDS = Stage("words", 1, 300, rate=3e-3, matrix_rate=3e-3, horizon=800)
LANGUAGE = Stage("language", 2, 600, rate=1.5e-3, matrix_rate=1.5e-3)
LANGUAGE_BATCH = 32

TUNING = Stage("tuning", 3, 1200, rate=1.5e-3, matrix_rate=1.5e-3)
TUNING_BATCH = 24
TUNING_SCENES = 1600

STAGES = (SIGHT, WORDS, LANGUAGE, TUNING)
TOWER_PARTS = ("model.vision_tower.", "model.multi_modal_projector.")


def train_sight(run: Run) -> None:
    """Run the stage `sight`."""
    torch.set_num_threads(1)
    learner = SightLearner(build_model(run.seed), training_sheets(), SIGHT_BATCH)
    train_stage(run, SIGHT, learner, learner.loss)


def train_language(run: Run) -> None:
    """Run the stages `words` and `language`."""
    torch.set_num_threads(1)
    model, sheets = build_model(run.seed), training_sheets()
    for stage, most in ((WORDS, 24), (LANGUAGE, GRID**2)):
        learner = LanguageLearner(model, sheets, LANGUAGE_BATCH, most)
        train_stage(run, stage, learner, learner.loss, position=1)


def train_tuning(run: Run) -> LlavaForConditionalGeneration:
    """Run the stage `tuning`, with the tower and the projector of `sight` before the language model of `language`."""
    model = join_stages(build_model(run.seed), run, SIGHT, LANGUAGE, TOWER_PARTS)
    learner = TuningLearner(model, write_scenes(model, training_sheets(), TUNING_SCENES, run.seed), TUNING_BATCH)
    train_stage(run, TUNING, learner, learner.loss)
    return model.eval()


def train(run: Run) -> LlavaForConditionalGeneration:
    """Run all stages and return the finished model.

    Raises:
        RuntimeError: one of the two stages that run side by side has ended with an error, which it has printed.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(run,)) for target in (train_sight, train_language)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("A stage has ended early; its error is above. Started again, the run goes on from there.")
    return train_tuning(run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the checkpoint with its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--run-folder", type=Path, default=Path("runs/objects"), help="where snapshots are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    run = Run(options.run_folder, seed=options.seed)
    torch.set_num_threads(1)
    model = train(run)
    report = {
        "command": "python -m benchmarks.objects.train",
        "seed": run.seed,
        "stages": stage_reports(run, STAGES),
        "batch_sizes": {"sight": SIGHT_BATCH, "words, language": LANGUAGE_BATCH, "tuning": TUNING_BATCH},
        "machine": machine(),
    }
    with replaced_when_complete(options.output) as folder:
        export_checkpoint(model, folder)
        write_json(folder / "training_report.json", report)


if __name__ == "__main__":
    main()
