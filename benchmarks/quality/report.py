"""Writes docs/quality.md and its figures from benchmarks/results/quality-*.json: `python -m benchmarks.quality.report`.

Every figure of the page comes out of those files, but for the paper's own, which are marked as such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.embedded_model.architecture import CROWDED
from benchmarks.embedded_model.held_out import HELD_OUT_SEED
from mmtok.apps.overlay import overlay
from mmtok.apps.seen_image import seen_images
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import with_article
from mmtok.tiny.scenes import sample_scene

from .cases import (
    ADAPTIVE,
    ALPHAS,
    FLOORS,
    RESULTS,
    ROOT,
    SPREADS,
    TEXT_TEMPERATURES,
    VISION_TEMPERATURES,
)
from .plots import gallery, heat_map, retention_figure, tokens_figure
from .tables import (
    BASELINES,
    PAPER_EXTREME,
    PAPER_LLAVA_15,
    PAPER_POPE,
    Results,
    ablation_table,
    accuracy_table,
    adaptive_table,
    alarms_sentence,
    budgets_of,
    cell_of,
    evidence_table,
    full_table,
    knobs_named,
    lead_table,
    paper_table,
    place_table,
    pope_table,
    preset_questions,
    preset_table,
    relations_sentence,
    retention_table,
    sentence_of_machine,
    signed,
    small_shown,
    sweep_table,
    taught_sentence,
)

DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
TEXT = Path(__file__).with_name("page.md")


def adaptive_figure(results: Results, path: Path, title: str) -> None:
    def points(cells: Sequence[Results]) -> list[dict[str, float]]:
        return [{"vision_tokens": c["vision_tokens"], **c["retention"]["mean"]} for c in cells]

    fixed = points([cell_of(results, "MMTok", budget) for budget in budgets_of(results, "MMTok")])
    adaptive = points([cell_of(results, method.name, 64) for method in ADAPTIVE])
    tokens_figure({"fixed budget": fixed, "budget 64 with coverage_target": adaptive}, path, title)


def make_gallery(path: Path) -> None:
    """The same picture under different questions, at one budget."""
    checkpoint = Checkpoint.load(checkpoint_path())
    scenes = [sample_scene(CROWDED, np.random.default_rng([HELD_OUT_SEED + 2, number])) for number in range(2)]
    rows = []
    for scene in scenes:
        row = [("the picture", scene.image().resize((336, 336)))]
        for item in scene.objects[:3]:
            text = f"Is there {with_article(item.name)} in the image?"
            inputs = checkpoint.inputs([text], [scene.image()])
            with torch.no_grad():
                selection = checkpoint.model.select_vision_tokens(**inputs, vision_token_budget=6)
            [picture] = seen_images(inputs, checkpoint.model.config, checkpoint.processor.image_processor)
            row.append((text, overlay(picture, selection.images[0])))
        rows.append(row)
    gallery(rows, path, "Six of 144 tokens, for different questions about the same picture")


def main() -> None:
    """Draws the figures and fills in the page."""
    found = {
        path.stem.removeprefix("quality-"): json.loads(path.read_text()) for path in RESULTS.glob("quality-*.json")
    }
    scenes, crowded, padded, tiles, evidence, preset, related = (
        found[name] for name in ("scenes", "crowded", "padded", "tiles", "evidence", "preset", "relations")
    )
    swept = evidence["sets"]["development"]
    everything = [*BASELINES, "recommended"]
    tiles_methods = [*BASELINES, "image scope", *(floor.name for floor in FLOORS), "recommended"]
    retention_figure(scenes, everything, IMAGES / "quality-scenes.png", "Embedded model, pictures of 2 to 5 objects")
    retention_figure(crowded, everything, IMAGES / "quality-crowded.png", "Embedded model, pictures of 8 to 12 objects")
    # LLaVA-NeXT's preset differs from MMTok on padding alone, of which these pictures have none.
    retention_figure(tiles, tiles_methods[:-1], IMAGES / "quality-tiles.png", "Five crops, pictures of 8 to 15 objects")
    heat_map(
        np.array(
            [
                [small_shown(swept, f"tau_t {text:g} tau_v {vision:g}")["estimate"] for vision in VISION_TEMPERATURES]
                for text in TEXT_TEMPERATURES
            ]
        ),
        [f"{value:g}" for value in TEXT_TEMPERATURES],
        [f"{value:g}" for value in VISION_TEMPERATURES],
        IMAGES / "quality-temperatures.png",
        row_name="text temperature",
        column_name="vision temperature",
        title="Object shown, mean of budgets 16, 8, 4, 2 (development pictures)",
    )
    adaptive_figure(crowded, IMAGES / "quality-adaptive.png", "Fixed and adaptive budgets, crowded pictures")
    make_gallery(IMAGES / "quality-gallery.png")
    blocks: dict[str, Callable[[], str]] = {
        "machine": lambda: sentence_of_machine(scenes),
        "scenes full": lambda: full_table(scenes),
        "scenes retention": lambda: retention_table(scenes, everything),
        "scenes lead": lambda: lead_table(scenes, everything[1:]),
        "scenes pope": lambda: pope_table(scenes, everything, "random"),
        "crowded full": lambda: full_table(crowded),
        "crowded retention": lambda: retention_table(crowded, everything),
        "crowded lead": lambda: lead_table(crowded, everything[1:]),
        "taught": lambda: taught_sentence(tiles),
        "tiles full": lambda: full_table(tiles),
        "tiles retention": lambda: retention_table(tiles, tiles_methods),
        "tiles lead": lambda: lead_table(tiles, tiles_methods[1:]),
        "relations": lambda: relations_sentence(tiles),
        "related taught": lambda: f"{related['taught']['steps']} steps, {related['taught']['seconds']} s",
        "related place": lambda: place_table(related["place"]),
        "related full": lambda: full_table(related),
        "related right": lambda: accuracy_table(related, everything, "relation"),
        "related retention": lambda: retention_table(related, everything),
        "related lead": lambda: lead_table(related, everything[1:]),
        "preset lead": lambda: preset_table(preset),
        "preset all": lambda: signed(preset["lead"]),
        "preset alarms": lambda: alarms_sentence(preset),
        "preset questions": lambda: preset_questions(preset),
        "evidence scenes": lambda: evidence_table(evidence["sets"]["scenes"]),
        "evidence crowded": lambda: evidence_table(evidence["sets"]["crowded"]),
        "evidence tiles": lambda: evidence_table(evidence["sets"]["tiles"]),
        "ablation": lambda: ablation_table(swept),
        "alpha": lambda: sweep_table(swept, {f"{alpha:g}": f"alpha {alpha:g}" for alpha in ALPHAS}, "alpha"),
        "spread": lambda: sweep_table(
            swept,
            {"paper": "tau_t 0.02 tau_v 0.2", **{f"{spread:g}": f"spread {spread:g}" for spread in SPREADS}},
            "text_temperature in spreads",
        ),
        "padded": lambda: retention_table(padded, ["MMTok", "exclude padding", "recommended"]),
        "adaptive": lambda: adaptive_table(crowded),
        "recommended": lambda: knobs_named("mmtok_llava"),
        "recommended next": lambda: knobs_named("mmtok_llava_next"),
        "paper": lambda: paper_table(PAPER_LLAVA_15),
        "paper extreme": lambda: paper_table(PAPER_EXTREME),
        "paper pope": lambda: paper_table(PAPER_POPE),
    }
    page = TEXT.read_text(encoding="utf-8")
    for name, write in blocks.items():
        mark = f"{{{{{name}}}}}"
        if mark not in page:
            raise ValueError(f"{TEXT.name} has no place for {mark}: write one, or take the block out of the script.")
        page = page.replace(mark, write())
    if "{{" in page:
        raise ValueError(f"{TEXT.name} has a place that nothing fills: {page[page.index('{{') :][:40]!r}.")
    (DOCS / "quality.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
