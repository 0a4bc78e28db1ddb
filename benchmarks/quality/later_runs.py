"""Measures the rules that were published after MMTok: `python -m benchmarks.quality.later_runs`.

Everything that chooses from one crop is tried on `scenes`; two rules that are ahead there with 16 tokens are measured
again on other images, `fresh crowded`. What dropped tokens can leave behind is tried on `merging`. Ways to share a
budget between crops are measured on images of `five crops`, and again on other images with a model that was trained for
five crops anew. Writes benchmarks/results/later-rules.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.objects.held_out import CROWDED, SEED, USUAL, write_held_out
from mmtok.evaluation import RunResult, lead, summarize
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.selectors import Selector
from mmtok.machine import machine
from mmtok.model_content import model_content
from mmtok.tiny import checkpoint_path
from mmtok.tiny.scenes import SceneSettings

from .cases import BUDGETS, POPE, RESULTS, ROOT, TILE_BUDGETS
from .crop_sharing import BestNominee, OneObjective
from .crops_reader import CLUTTERED, SCALE
from .crops_training import train_crops_checkpoint
from .later_rules import LaterRule
from .runs import ANSWER_TOKENS, answered
from .token_sizes import Merged, answered_with_sizes

SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {},
    "softer": {
        "text_temperature": 1.0,
        "text_temperature_unit": "spread",
        "vision_temperature": 1.6,
        "vision_weight": 4.0,
    },
}
RULES: dict[str, Callable[..., Selector]] = {
    "vision first": partial(LaterRule, stages=0),
    "vision first, then swaps": partial(LaterRule, stages=0, swaps=True),
    "a pick for the text, vision first": partial(LaterRule, stages=1),
    "two picks for the text, vision first": partial(LaterRule, stages=2),
    "swaps": partial(LaterRule, swaps=True),
    "entropy weights": partial(LaterRule, entropy_weights=True),
    "saliency weights": partial(LaterRule, saliency=True),
}
MERGING_RULES: dict[str, Callable[..., Selector]] = {
    "merging": Merged,
    "merging by half": partial(Merged, share=0.5),
}
# Rules with which the attention knows how many tokens a kept one stands for.
SIZED_RULES: dict[str, Callable[..., Selector]] = {
    "log-size bias": LaterRule,
    "merging, log-size bias": Merged,
}
SHARING_RULES: dict[str, Callable[..., Selector]] = {
    "best nominee of the crops": BestNominee,
    "one objective for all crops": OneObjective,
}


@dataclass(frozen=True)
class Trial:
    """Which rules are measured on which images.

    `scale` and `reader` are as in `write_held_out` and `Case`, `sized` names the rules of `SIZED_RULES`.
    """

    settings: SceneSettings
    scenes: int
    seed: int
    tasks: Sequence[str]
    rules: Sequence[str]
    budgets: Sequence[int]
    scale: int = 1
    reader: Callable[[Path, Path], Path] | None = None
    sized: Sequence[str] = ()


def _crops(seed: int, reader: Callable[[Path, Path], Path]) -> Trial:
    return Trial(CLUTTERED, 150, seed, (*POPE, "what"), tuple(SHARING_RULES), TILE_BUDGETS, SCALE, reader)


_AHEAD = ("vision first", "a pick for the text, vision first")
TRIALS = {
    "scenes": Trial(USUAL, 120, 31, (*POPE, "what", "count"), tuple(RULES), BUDGETS),
    "fresh crowded": Trial(CROWDED, 150, 42, (*POPE, "what"), _AHEAD, (32, 16, 8)),
    "merging": Trial(
        USUAL, 120, 43, (*POPE, "what", "count"), tuple(MERGING_RULES), (32, 16, 8, 4), sized=tuple(SIZED_RULES)
    ),
    "five crops": _crops(52, train_crops_checkpoint),
    "five crops again": _crops(53, partial(train_crops_checkpoint, seed=1)),
}


def measure(trial: Trial, folder: Path, batch_size: int) -> dict[str, Any]:
    """Answers a trial's questions and summarises them."""
    rendered = write_held_out(folder / "set", trial.settings, trial.scenes, seed=SEED + trial.seed, scale=trial.scale)
    rules: list[Selector] = [LaterRule(name, **settings) for name, settings in SETTINGS.items()]
    rules += _made({**RULES, **MERGING_RULES, **SHARING_RULES}, trial.rules)
    reader = trial.reader(checkpoint_path(), folder / "reader") if trial.reader else checkpoint_path()
    result = answered(reader, rendered, trial.tasks, rules, trial.budgets, folder / "answers", batch_size)
    if trial.sized:
        sized, checkpoint = _made(SIZED_RULES, trial.sized), Checkpoint.load(reader)
        more = answered_with_sizes(checkpoint, rendered, trial.tasks, sized, trial.budgets, ANSWER_TOKENS, batch_size)
        result = RunResult(result.questions, [*result.answers, *more])
    return summarized(trial, result)


def _made(rules: Mapping[str, Callable[..., Selector]], named: Sequence[str]) -> list[Selector]:
    """Some rules on every setting of the rows."""
    return [rules[rule](f"{name}: {rule}", **settings) for name, settings in SETTINGS.items() for rule in named]


def summarized(trial: Trial, result: RunResult) -> dict[str, Any]:
    """For each setting of the rows and each rule: retention at each budget, and its lead over greedy maximisation."""
    cells = {(cell["method"], cell["budget"]): cell for cell in summarize(result, resamples=1000)["cells"]}

    def row(settings: str, rule: str) -> dict[str, Any]:
        name = settings if rule == "greedy" else f"{settings}: {rule}"
        return {
            "settings": settings,
            "rule": rule,
            "retention": {str(budget): cells[name, budget]["retention"]["mean"] for budget in trial.budgets},
            "lead": {
                str(budget): lead([(result, [budget])], name, settings, resamples=1000) for budget in trial.budgets
            },
        }

    rows = [row(settings, rule) for settings in SETTINGS for rule in ("greedy", *trial.rules, *trial.sized)]
    return {"scenes": trial.scenes, "questions": len(result.questions), "rules": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"{', '.join(TRIALS)}; all if none is named")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "later", help="images and answers")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.trials) - set(TRIALS))
    if unknown:
        parser.error(f"there is no trial {unknown[0]!r}: choose from {', '.join(TRIALS)}")
    torch.set_num_threads(options.threads)
    for name in options.trials or TRIALS:
        found = measure(TRIALS[name], options.runs / name, options.batch_size)
        _write(name, {"machine": machine(), "checkpoint": model_content(checkpoint_path()), **found})


def _write(name: str, found: Mapping[str, Any]) -> None:
    """Puts the results of a trial in the place of earlier ones."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "later-rules.json"
    before = json.loads(path.read_text(encoding="utf-8"))["trials"] if path.exists() else {}
    trials = {**before, name: found}
    path.write_text(json.dumps({"trials": trials}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
