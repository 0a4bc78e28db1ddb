"""Text rows that count several kept tokens, by fixed depths and by rules: `python -m benchmarks.quality.text_depth`.

The embedded LLaVA answers about objects, usual and crowded, and of five crops it is measured what is kept of the object
asked for, by the same weights. With `--qwen FOLDER`, the embedded Qwen2.5-VL answers about signs, pages and objects.
Writes results/text-depth.json and results/text-depth-qwen.json; every lead is over the paper's setting.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine, save
from benchmarks.objects.held_out import CROWDED, USUAL
from benchmarks.reading.evaluate import evaluate, held_out_scenes
from benchmarks.reading.processor import load_qwen
from mmtok.evaluation import lead, summarize
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.selectors import METHODS, CropView, Kept, Selector
from mmtok.hub.coverage import greedy_coverage
from mmtok.hub.objective import coverage_matrix
from mmtok.record_store import model_content
from mmtok.tiny import checkpoint_path

from .cases import DEVELOPMENT_SEED, POPE, drawn_set
from .crops import CLUTTERED, SCALE, make_crops_checkpoint
from .evidence import kept_evidence
from .runs import answered, drawn

# Of 144 tokens: 44, 22, 11 and 6 %.
BUDGETS = (64, 32, 16, 8)
SHARES = (0.5, 0.25, 0.1, 0.05)
DEEPEST = 8
# Depths with the paper's temperature of the text rows, and with softer ones.
SETTINGS = ((2, 0.02), (4, 0.02), (8, 0.02), (2, 0.05), (4, 0.1), (8, 0.1))
# Settings for Qwen, whose temperature of the text rows is half as large.
QWEN_SETTINGS = ((1, 0.01), (2, 0.01), (4, 0.01), (8, 0.01), (2, 0.05), (4, 0.1), (8, 0.1))


class Deep(Selector):
    """MMTok with a depth that may depend on the text rows and on the budget.

    Args:
        name: what results call it.
        depth: of the (m, n) text rows, each with a sum of 1, and the budget.
        temperature: of the text rows.
    """

    def __init__(self, name: str, depth: Callable[[torch.Tensor, int], int], temperature: float = 0.02) -> None:
        self.name = name  # type: ignore[misc]
        self.depth, self.temperature = depth, temperature

    def select(self, crop: CropView, budget: int) -> Kept:
        matrix = coverage_matrix(crop.text, crop.vision, crop.raw_vision, text_temperature=self.temperature)
        words = len(crop.text)
        depth = self.depth(matrix[:words] * words, budget) if words else 1
        return Kept(greedy_coverage(matrix, min(budget, len(crop.vision)), deep_rows=words, depth=depth).indices)


def share_of_budget(per: int) -> Callable[[torch.Tensor, int], int]:
    """One token for each `per` tokens of the budget."""
    return lambda _, budget: min(DEEPEST, max(1, budget // per))


def spread(rows: torch.Tensor, budget: int) -> int:
    """As many tokens as the rows spread over, exp(entropy), on average; at most what the budget has for each row."""
    tokens = float(torch.special.entr(rows).sum(-1).exp().mean())
    return min(DEEPEST, max(1, round(min(tokens, budget / len(rows)))))


RULES = [
    *(Deep(f"depth {depth}, tau_t {tau}", lambda *_, fixed=depth: fixed, tau) for depth, tau in SETTINGS),
    Deep("depth budget / 8", share_of_budget(8)),
    Deep("depth budget / 8, tau_t 0.05", share_of_budget(8), 0.05),
    Deep("depth by spread", spread),
    Deep("depth by spread, tau_t 0.05", spread, 0.05),
]


SETS = {"usual": (USUAL, (*POPE, "what", "count")), "crowded": (CROWDED, (*POPE, "what"))}
CROPS = "five crops, evidence"


def objects(sets: Sequence[str], scenes: int, budgets: Sequence[int], folder: Path) -> dict[str, Any]:
    """What the rules keep of the embedded LLaVA's answers, and of the objects asked for in five crops."""
    paper, checkpoint = METHODS["MMTok"], checkpoint_path()
    found: dict[str, Any] = {}
    for name in filter(SETS.get, sets):
        settings, tasks = SETS[name]
        images = drawn_set(settings, scenes, DEVELOPMENT_SEED)(folder / name)
        result = answered(checkpoint, images, tasks, [paper, *RULES], budgets, folder / name / "answers", 100)
        cells = {(cell["method"], cell["budget"]): cell for cell in summarize(result, resamples=500)["cells"]}
        found[name] = {
            "questions": len(result.questions),
            "retention": {
                rule.name: {budget: cells[rule.name, budget]["retention"]["mean"] for budget in budgets}
                for rule in (paper, *RULES)
            },
            "lead": {
                rule.name: {
                    budget: lead([(result, [budget])], rule.name, paper.name, resamples=500) for budget in budgets
                }
                for rule in RULES
            },
        }
    if CROPS in sets:
        tiles = Checkpoint.load(make_crops_checkpoint(checkpoint, folder / "tiles"))
        images_of_crops = drawn(CLUTTERED, max(1, scenes // 15), DEVELOPMENT_SEED, scale=SCALE)
        evidence = kept_evidence(tiles, images_of_crops, [paper, *RULES], budgets, batch_size=25)
        found[CROPS] = {"questions": len(evidence.scenes), "cells": evidence.cells()}
    return found


def reading(checkpoint: Path, scenes: int, budgets: Sequence[float]) -> dict[str, Any]:
    """What is right of the embedded Qwen2.5-VL's answers, by budget and setting."""
    qwen, images = load_qwen(checkpoint), held_out_scenes(scenes, DEVELOPMENT_SEED)
    found: dict[str, Any] = {"all tokens": evaluate(qwen, images, {"vision_token_budget": None})}
    for budget in budgets:
        for depth, tau in QWEN_SETTINGS:
            options = {"vision_token_budget": budget, "text_coverage_depth": depth, "text_temperature": tau}
            found[f"{budget}, depth {depth}, tau_t {tau}"] = evaluate(qwen, images, options)
    return {name: {kind: asdict(right) for kind, right in each.items()} for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen", type=Path, help="folder that benchmarks.reading.train wrote")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--sets", nargs="*", choices=[*SETS, CROPS], default=[*SETS, CROPS], help="of objects")
    parser.add_argument("--budgets", type=float, nargs="*", help="tokens of each crop; for Qwen shares of the tokens")
    options = parser.parse_args()
    started = time.process_time()
    if options.qwen:
        checkpoint, found = options.qwen, {"right": reading(options.qwen, options.scenes, options.budgets or SHARES)}
    else:
        with tempfile.TemporaryDirectory() as folder:
            budgets = list(map(int, options.budgets or BUDGETS))
            checkpoint, found = checkpoint_path(), objects(options.sets, options.scenes, budgets, Path(folder))
    told = {
        "machine": machine("mmtok", "transformers"),
        "checkpoint": model_content(checkpoint),
        "seed": DEVELOPMENT_SEED,
        "scenes": options.scenes,
        "processor_seconds": round(time.process_time() - started),
    }
    print(save("text-depth-qwen" if options.qwen else "text-depth", {**told, **found}))


if __name__ == "__main__":
    main()
