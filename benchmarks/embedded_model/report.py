"""The training report: what was run where, and the accuracy that came out."""

from __future__ import annotations

from typing import Any

from mmtok.machine import machine

from .held_out import COMPARED, HELD_OUT_SEED, Score, as_json
from .stages import Stage

ALL_TOKENS_ACCURACY = 0.97
FOUR_TOKENS_ACCURACY = 0.95


def build_report(
    stages: tuple[Stage, ...],
    seconds: dict[str, float],
    scores: dict[str, dict[str, Score]],
    *,
    seed: int,
    precision: str,
    questions: int,
) -> dict[str, Any]:
    """Collect all of it as JSON values."""
    return {
        "command": "python -m benchmarks.embedded_model.training",
        "seed": seed,
        "precision": precision,
        "machine": machine("transformers", "tokenizers", "numpy"),
        "stages": [
            {
                "name": stage.name,
                "steps": stage.steps,
                "batch_size": stage.batch_size,
                "peak_learning_rates": stage.rates,
                "seconds": round(seconds[stage.name]),
            }
            for stage in stages
        ],
        "seconds": round(sum(seconds.values())),
        "held_out": {"seed": HELD_OUT_SEED, "questions": questions, "scores": as_json(scores)},
    }


def require_targets(scores: dict[str, dict[str, Score]]) -> None:
    """Refuse a model that does not see well enough to be shipped.

    Raises:
        ValueError: below 97 % with all tokens or 95 % with four chosen by MMTok, or another selector is as good.
    """
    complete = scores["all tokens"]["all"].accuracy
    four = {name: scores[name]["4"].accuracy for name in COMPARED}
    best = max((name for name in four if name != "MMTok"), key=lambda name: four[name])
    own = four["MMTok"]
    if complete < ALL_TOKENS_ACCURACY or own < FOUR_TOKENS_ACCURACY or own <= four[best]:
        raise ValueError(
            f"Accuracy is {complete:.3f} with all tokens and {own:.3f} with four chosen by MMTok "
            f"({best}: {four[best]:.3f}); at least {ALL_TOKENS_ACCURACY} and {FOUR_TOKENS_ACCURACY} are needed, with "
            "MMTok ahead. Train longer, or with another seed."
        )
