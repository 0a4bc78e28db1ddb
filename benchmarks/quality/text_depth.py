"""Text rows that count several kept tokens: `python -m benchmarks.quality.text_depth`.

The embedded LLaVA answers about objects, usual, crowded and in five crops; with `--qwen`, the embedded Qwen2.5-VL about
signs, pages and objects. Writes results/text-depth.json or results/text-depth-qwen.json. Leads are over the paper's
setting, with the interval of a bootstrap over the images, which no setting was chosen by.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.functional import normalize

from benchmarks.measure import save
from benchmarks.objects.held_out import CROWDED, USUAL
from benchmarks.reading.evaluate import held_out_scenes, load_qwen, right_of, scores_of
from mmtok.evaluation import lead, summarize
from mmtok.evaluation.selectors import METHODS, CDPruner, DivPrune, Selector
from mmtok.hub.options import SPREAD_OPTIONS
from mmtok.image_cache import EncodedImageCache
from mmtok.record_store import model_content
from mmtok.tiny import LLAVA, QWEN, checkpoint_path

from .cases import ANSWER_SEED, POPE, SCALE, TILE_BUDGETS, answered, drawn_set, variant
from .crops import CLUTTERED, train_crops_checkpoint

# Of 144 tokens: 44, 22, 11, 6 and 3 %.
BUDGETS = (64, 32, 16, 8, 4)
SHARES = (0.5, 0.25, 0.1, 0.05)
# One depth for all rows shows what is gained by one for each.
FIXED = {"text_coverage_depth": 4, "text_temperature": 0.1}
RULES = [variant("spread", **SPREAD_OPTIONS), variant("depth 4", **FIXED)]
SHARED = [
    variant("spread, shared budget", **SPREAD_OPTIONS, budget_scope="image"),
    variant("shared budget", budget_scope="image"),
]
QWEN_METHODS: dict[str, dict[str, Any] | Selector] = {
    # The temperature of the authors' code for Qwen.
    "MMTok": {"text_coverage_depth": 1, "text_temperature": 0.01},
    "spread": SPREAD_OPTIONS,
    "depth 4": FIXED,
    "CDPruner": CDPruner(),
    "DivPrune": DivPrune(),
}
SETS = {"usual": (USUAL, (*POPE, "what", "count")), "crowded": (CROWDED, (*POPE, "what"))}
# Of a direction of length 1, the part that is the word's own where words are badly aligned.
OWN_PART = 0.3


def objects(scenes: int, folder: Path) -> dict[str, Any]:
    """What the settings keep of the embedded LLaVA's answers."""
    paper, found = METHODS["MMTok"], {}
    cases = {
        name: (checkpoint_path(), drawn_set(kind, scenes, ANSWER_SEED), tasks) for name, (kind, tasks) in SETS.items()
    }
    crops = train_crops_checkpoint(checkpoint_path(), Path("runs/quality/reader"))
    cases["five crops"] = (crops, drawn_set(CLUTTERED, scenes, ANSWER_SEED, scale=SCALE), (*POPE, "what"))
    for name, (reader, prepare, tasks) in cases.items():
        rules, budgets = ([*RULES, *SHARED], TILE_BUDGETS) if name == "five crops" else (RULES, BUDGETS)
        images = prepare(folder / name)
        result = answered(reader, images, tasks, [paper, *rules], budgets, folder / name / "answers")
        cells = {(cell["method"], cell["budget"]): cell for cell in summarize(result, resamples=500)["cells"]}

        def ahead(rule: str, budget: int, result: Any = result) -> dict[str, float]:
            return lead([(result, [budget])], rule, paper.name, resamples=500)

        found[name] = {
            "questions": len(result.questions),
            "retention": {
                rule.name: {budget: cells[rule.name, budget]["retention"]["mean"] for budget in budgets}
                for rule in (paper, *rules)
            },
            "lead": {rule.name: {budget: ahead(rule.name, budget) for budget in budgets} for rule in rules},
        }
    return found


def reading(scenes: int) -> dict[str, Any]:
    """What is right of the embedded Qwen2.5-VL's answers, by budget and method, and how far ahead of the paper's."""
    qwen, images = load_qwen(checkpoint_path(QWEN)), held_out_scenes(scenes, ANSWER_SEED)

    def scored(share: float | None, method: dict[str, Any] | Selector) -> dict[str, list[tuple[int, float]]]:
        options = {"vision_token_budget": share, **({} if isinstance(method, Selector) else method)}
        return scores_of(
            qwen,
            images,
            options,
            EncodedImageCache(qwen.model),
            selector=method if isinstance(method, Selector) else None,
        )

    def right(scores: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
        return {kind: asdict(right_of(found)) for kind, found in scores.items()}

    found: dict[str, Any] = {"right": {"all tokens": right(scored(None, {}))}, "lead": {}}
    for words in ("", ", badly aligned words"):
        with misaligned(qwen.model) if words else nullcontext():
            for share in SHARES:
                scores = {name: scored(share, method) for name, method in QWEN_METHODS.items()}
                for name, each in scores.items():
                    cell = f"{share}, {name}{words}"
                    found["right"][cell] = right(each)
                    if name != "MMTok":
                        found["lead"][cell] = {
                            kind: asdict(
                                right_of(
                                    [(number, ours - its) for (number, ours), (_, its) in zip(own, base, strict=True)]
                                )
                            )
                            for (kind, own), base in zip(each.items(), scores["MMTok"].values(), strict=True)
                        }
    return found


@contextmanager
def misaligned(model: Any) -> Iterator[None]:
    """The words to cover point for the most part somewhere else, the same for every question with the word."""
    embeddings = model.question_embeddings

    def turned(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        text, mask = embeddings(*arguments)
        flat = text.reshape(-1, text.shape[-1]).float()
        seeds = (flat.abs().sum(-1) * 1e4).long().tolist()
        noise = torch.stack(
            [torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(each)) for each in seeds]
        )
        own = OWN_PART * normalize(flat, dim=-1) + (1 - OWN_PART**2) ** 0.5 * normalize(noise, dim=-1)
        return own.reshape(text.shape).to(text.dtype), mask

    with patch.object(model, "question_embeddings", turned):
        yield


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen", action="store_true", help="the embedded Qwen2.5-VL instead")
    parser.add_argument("--scenes", type=int, default=60)
    options = parser.parse_args()
    started = time.process_time()
    if options.qwen:
        found = reading(options.scenes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = objects(options.scenes, Path(folder))
    told = {
        "checkpoint": model_content(checkpoint_path(QWEN if options.qwen else LLAVA)),
        "seed": ANSWER_SEED,
        "scenes": options.scenes,
        "processor_seconds": round(time.process_time() - started),
    }
    print(save("text-depth-qwen" if options.qwen else "text-depth", {**told, **found}, "mmtok", "transformers"))


if __name__ == "__main__":
    main()
