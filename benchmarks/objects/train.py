"""Train the embedded model: `python -m benchmarks.objects.train --output FOLDER`.

    sight      the vision tower and the projector write every patch as the word of what it shows   (see sight.py)
    language   the language model answers about patches that are written without a tower            (see language.py)
    tuning     it goes on with what the tower writes, which stays as it is                           (see tuning.py)

The first two need nothing of each other and run side by side, each with one thread. An interrupted run goes on from its
snapshots.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .architecture import build_model
from .language import LanguageLearner
from .loop import Run, Stage, train_stage
from .scenes import GRID
from .sight import SightLearner
from .sprites import SpriteSheet, load_sheets

SHEETS = Path(__file__).parent / "sprites"
UNSEEN_STYLE = "twemoji"

SIGHT = Stage("sight", 0, 2400, rate=1e-3, matrix_rate=3e-3)
SIGHT_BATCH = 48

# The rate is left high at the end of the first part: the second goes on from there.
WORDS = Stage("words", 1, 400, rate=3e-3, matrix_rate=3e-3, horizon=800)
LANGUAGE = Stage("language", 2, 600, rate=1.5e-3, matrix_rate=1.5e-3)
LANGUAGE_BATCH = 32


def training_sheets() -> dict[str, SpriteSheet]:
    """Read the sheets that training draws from: all but the style kept for evaluation."""
    return {style: sheet for style, sheet in load_sheets(SHEETS).items() if style != UNSEEN_STYLE}


def train_sight(run: Run) -> float:
    """Run the first stage and return its seconds."""
    torch.set_num_threads(1)
    learner = SightLearner(build_model(run.seed), training_sheets(), SIGHT_BATCH)
    return train_stage(run, SIGHT, learner, learner.loss)


def train_language(run: Run) -> float:
    """Run the second stage, few patches first, and return its seconds."""
    torch.set_num_threads(1)
    model, sheets = build_model(run.seed), training_sheets()
    few = LanguageLearner(model, sheets, LANGUAGE_BATCH, most=24)
    seconds = train_stage(run, WORDS, few, few.loss, position=1)
    all_patches = LanguageLearner(model, sheets, LANGUAGE_BATCH, most=GRID**2)
    return seconds + train_stage(run, LANGUAGE, all_patches, all_patches.loss, position=1)
