"""Text rows that count several kept tokens: `python -m benchmarks.quality.text_depth`.

The embedded LLaVA answers about objects, usual and crowded; with `--qwen`, the embedded Qwen2.5-VL about signs, pages
and objects. Writes results/text-depth.json or results/text-depth-qwen.json; every lead is over the paper's setting.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import save
from benchmarks.objects.held_out import CROWDED, USUAL
from benchmarks.reading.evaluate import evaluate, held_out_scenes, load_qwen
from mmtok.evaluation import lead, summarize
from mmtok.evaluation.selectors import METHODS
from mmtok.record_store import model_content
from mmtok.tiny import LLAVA, QWEN, checkpoint_path

from .cases import DEVELOPMENT_SEED, POPE, answered, drawn_set, variant

# Of 144 tokens: 44, 22, 11 and 6 %.
BUDGETS = (64, 32, 16, 8)
SHARES = (0.5, 0.25, 0.1, 0.05)
# Depths with the paper's temperature of the text rows, and with softer ones; Qwen's own is half as large.
SOFTER = ((2, 0.05), (4, 0.1), (8, 0.1))
SETTINGS = ((2, 0.02), (4, 0.02), (8, 0.02), *SOFTER)
QWEN_SETTINGS = ((1, 0.01), (2, 0.01), (4, 0.01), (8, 0.01), *SOFTER)
RULES = [variant(f"depth {n}, tau_t {tau}", text_coverage_depth=n, text_temperature=tau) for n, tau in SETTINGS]
SETS = {"usual": (USUAL, (*POPE, "what", "count")), "crowded": (CROWDED, (*POPE, "what"))}


def objects(scenes: int, folder: Path) -> dict[str, Any]:
    """What the settings keep of the embedded LLaVA's answers."""
    paper, found = METHODS["MMTok"], {}
    for name, (settings, tasks) in SETS.items():
        images = drawn_set(settings, scenes, DEVELOPMENT_SEED)(folder / name)
        result = answered(checkpoint_path(), images, tasks, [paper, *RULES], BUDGETS, folder / name / "answers")
        cells = {(cell["method"], cell["budget"]): cell for cell in summarize(result, resamples=500)["cells"]}

        def ahead(rule: str, budget: int, result: Any = result) -> dict[str, float]:
            return lead([(result, [budget])], rule, paper.name, resamples=500)

        found[name] = {
            "questions": len(result.questions),
            "retention": {
                rule.name: {budget: cells[rule.name, budget]["retention"]["mean"] for budget in BUDGETS}
                for rule in (paper, *RULES)
            },
            "lead": {rule.name: {budget: ahead(rule.name, budget) for budget in BUDGETS} for rule in RULES},
        }
    return found


def reading(scenes: int) -> dict[str, Any]:
    """What is right of the embedded Qwen2.5-VL's answers, by budget and setting."""
    qwen, images = load_qwen(checkpoint_path(QWEN)), held_out_scenes(scenes, DEVELOPMENT_SEED)
    found: dict[str, Any] = {"all tokens": evaluate(qwen, images, {"vision_token_budget": None})}
    for budget in SHARES:
        for depth, tau in QWEN_SETTINGS:
            options = {"vision_token_budget": budget, "text_coverage_depth": depth, "text_temperature": tau}
            found[f"{budget}, depth {depth}, tau_t {tau}"] = evaluate(qwen, images, options)
    return {name: {kind: asdict(right) for kind, right in each.items()} for name, each in found.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen", action="store_true", help="the embedded Qwen2.5-VL instead")
    parser.add_argument("--scenes", type=int, default=60)
    options = parser.parse_args()
    started = time.process_time()
    if options.qwen:
        found = {"right": reading(options.scenes)}
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = objects(options.scenes, Path(folder))
    told = {
        "checkpoint": model_content(checkpoint_path(QWEN if options.qwen else LLAVA)),
        "seed": DEVELOPMENT_SEED,
        "scenes": options.scenes,
        "processor_seconds": round(time.process_time() - started),
    }
    print(save("text-depth-qwen" if options.qwen else "text-depth", {**told, **found}, "mmtok", "transformers"))


if __name__ == "__main__":
    main()
