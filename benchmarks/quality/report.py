"""Writes docs/quality.md and its figures from benchmarks/results/quality-*.json: `python -m benchmarks.quality.report`.

Every figure of the page comes out of those files, but for the paper's own, which are marked as such. The text is in
page.md; a mark such as {{ablation}} stands where a table or a sentence with figures goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.objects.held_out import CROWDED
from mmtok.apps.overlay import overlay
from mmtok.apps.seen_image import seen_images
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import is_there

from . import findings as say
from . import tables
from .cases import (
    ADAPTIVE,
    ALPHAS,
    BEFORE_UNPADDING,
    EVIDENCE_SEED,
    RESULTS,
    ROOT,
    SHARED_BUDGET,
    SPREADS,
    TEXT_TEMPERATURES,
    VISION_TEMPERATURES,
)
from .crops_reader import CLUTTERED, SCALE, make_crops_checkpoint
from .plots import gallery, heat_map, retention_figure, tokens_figure
from .runs import drawn
from .tables import BASELINES, Results

DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
_PADDED_TILES = [BEFORE_UNPADDING.name, SHARED_BUDGET.name]
TEXT = Path(__file__).with_name("page.md")


def draw_figures(found: Mapping[str, Results], folder: Path) -> None:
    """Draws the figures of the page."""
    swept = found["evidence"]["sets"]["development"]
    retention_figure(found["scenes"], BASELINES, folder / "quality-scenes.png", "Images of 2 to 5 objects")
    retention_figure(found["crowded"], BASELINES, folder / "quality-crowded.png", "Images of 8 to 11 objects")
    unseen = "Images of 2 to 5 objects in a style that training did not draw"
    retention_figure(found["unseen"], BASELINES, folder / "quality-unseen.png", unseen)
    tiles = "Five crops, images of 8 to 11 objects"
    retention_figure(found["tiles"], (*BASELINES, SHARED_BUDGET.name), folder / "quality-tiles.png", tiles)
    shown = [
        [tables.small_shown(swept, f"tau_t {text:g} tau_v {vision:g}")["estimate"] for vision in VISION_TEMPERATURES]
        for text in TEXT_TEMPERATURES
    ]
    heat_map(
        np.array(shown),
        [f"{value:g}" for value in TEXT_TEMPERATURES],
        [f"{value:g}" for value in VISION_TEMPERATURES],
        folder / "quality-temperatures.png",
        row_name="text temperature",
        column_name="vision temperature",
        title="Object shown, mean of budgets 16, 8, 4, 2 (development images)",
    )
    _draw_adaptive(found["crowded"], folder / "quality-adaptive.png")
    _draw_gallery(folder / "quality-gallery.png")
    _draw_shared(folder / "quality-shared.png")


def _draw_adaptive(results: Results, path: Path) -> None:
    def points(cells: Sequence[Results]) -> list[dict[str, float]]:
        return [{"vision_tokens": c["vision_tokens"], **c["retention"]["mean"]} for c in cells]

    fixed = [tables.cell_of(results, "MMTok", budget) for budget in tables.budgets_of(results, "MMTok")]
    adaptive = [tables.cell_of(results, method.name, 64) for method in ADAPTIVE]
    curves = {"fixed budget": points(fixed), "budget 64 with coverage_target": points(adaptive)}
    tokens_figure(curves, path, "Fixed and adaptive budgets, crowded images")


def _draw_gallery(path: Path) -> None:
    """The same image under different questions, at one budget."""
    checkpoint = Checkpoint.load(checkpoint_path())
    rows = []
    for item in drawn(CROWDED, 2, EVIDENCE_SEED + 1):
        row = [("the image", item.image.resize((336, 336)))]
        row += [
            (is_there(name), _kept(checkpoint, item.image, is_there(name), vision_token_budget=6))
            for name in item.scene.names[:3]
        ]
        rows.append(row)
    gallery(rows, path, "Six of 144 tokens, for different questions about the same image")


def _draw_shared(path: Path) -> None:
    """What is kept of five crops with a budget for each, and with one for all."""
    with TemporaryDirectory() as folder:
        checkpoint = Checkpoint.load(make_crops_checkpoint(checkpoint_path(), Path(folder) / "crops"))
    [item] = drawn(CLUTTERED, 1, EVIDENCE_SEED + 1, scale=SCALE)
    question = is_there(item.scene.names[0])
    captions = {"crop": "2 tokens for each crop", "image": "10 tokens for all crops"}
    row = [
        (caption, _kept(checkpoint, item.image, question, vision_token_budget=2, budget_scope=scope))
        for scope, caption in captions.items()
    ]
    gallery([row], path, question, size=(4.6, 3.2))


def _kept(checkpoint: Checkpoint, image: Image.Image, question: str, **options: Any) -> Image.Image:
    """An image with the tokens that are kept for a question."""
    inputs = checkpoint.inputs([question], [image])
    with torch.no_grad():
        selection = checkpoint.model.select_vision_tokens(**inputs, **options)
    [seen] = seen_images(inputs, checkpoint.model.config, checkpoint.processor.image_processor)
    return overlay(seen, selection.images[0])


def blocks(found: Mapping[str, Results]) -> dict[str, str]:
    """What goes into the page: mark -> text."""
    filled = {
        "findings": say.findings(found),
        "training": say.sentence_of_training(_training()),
        "machine": say.sentence_of_machine(found["scenes"]),
        "seconds": f"{round(sum(case['seconds'] for case in found.values()) / 60)} minutes",
        "instructed": tables.instruction_table(found),
        "scenes leads": tables.leads_table(found["scenes"], list(BASELINES)[1:]),
        "tiles leads": tables.leads_table(found["tiles"], [*list(BASELINES)[1:], SHARED_BUDGET.name]),
        "scenes pope": tables.pope_table(found["scenes"], BASELINES, "random"),
        "paper": tables.paper_table(tables.PAPER_LLAVA_15),
        "paper extreme": tables.paper_table(tables.PAPER_EXTREME),
        "paper pope": tables.paper_table(tables.PAPER_POPE),
    }
    for name in ("scenes", "crowded", "unseen", "tiles"):
        results, methods = found[name], [*BASELINES, *([SHARED_BUDGET.name] if name == "tiles" else [])]
        filled[f"{name} images"] = str(max(task["images"] for task in results["tasks"].values()))
        filled[f"{name} full"] = tables.full_table(results)
        filled[f"{name} retention"] = tables.retention_table(results, methods)
        filled[f"{name} lead"] = tables.lead_table(results, methods[1:])
    return filled | _evidence_blocks(found["evidence"]["sets"]) | _option_blocks(found)


def _evidence_blocks(sets: Mapping[str, Results]) -> dict[str, str]:
    swept = sets["development"]
    spreads = {f"{spread:g}": f"spread {spread:g}" for spread in SPREADS}
    return {
        **{f"evidence {name}": tables.evidence_table(sets[name]) for name in ("scenes", "crowded", "unseen", "tiles")},
        "picks": tables.picks_table(sets["scenes"], BASELINES),
        "picks crowded": tables.picks_table(sets["crowded"], BASELINES),
        "ablation": tables.ablation_table(swept),
        "alpha": tables.sweep_table(swept, {f"{alpha:g}": f"alpha {alpha:g}" for alpha in ALPHAS}, "alpha"),
        "spread": tables.sweep_table(
            swept, {"paper": "tau_t 0.02 tau_v 0.2", **spreads}, "text_temperature in spreads"
        ),
    }


def _option_blocks(found: Mapping[str, Results]) -> dict[str, str]:
    return {
        "counting": tables.counting_table(found["counting"]),
        "settings": tables.settings_table(found["settings"], 6),
        "settings count": say.settings_count(found["settings"]),
        "padded": tables.retention_table(found["padded"], ["MMTok", "exclude padding"]),
        "padded-tiles images": str(found["padded-tiles"]["tasks"]["random"]["images"]),
        "padded-tiles retention": tables.retention_table(found["padded-tiles"], ["MMTok", *_PADDED_TILES]),
        "padded-tiles leads": tables.leads_table(found["padded-tiles"], _PADDED_TILES),
        "padded-tiles lead": tables.lead_table(found["padded-tiles"], _PADDED_TILES),
        "adaptive": tables.adaptive_table(found["crowded"]),
    }


def rendered(page: str, filled: Mapping[str, str]) -> str:
    """The page with every mark filled in.

    Raises:
        ValueError: a mark without a text, or a text without a mark.
    """
    for name, text in filled.items():
        mark = f"{{{{{name}}}}}"
        if mark not in page:
            raise ValueError(f"{TEXT.name} has no place for {mark}: write one, or take the block out of the script.")
        page = page.replace(mark, text)
    if "{{" in page:
        raise ValueError(f"{TEXT.name} has a place that nothing fills: {page[page.index('{{') :][:40]!r}.")
    return page


def results() -> dict[str, Results]:
    """The committed results, by the name of their case."""
    paths = sorted(RESULTS.glob("quality-*.json"))
    return {path.stem.removeprefix("quality-"): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _training() -> Results:
    return json.loads((RESULTS / "training.json").read_text(encoding="utf-8"))


def main() -> None:
    """Draws the figures and fills in the page."""
    found = results()
    draw_figures(found, IMAGES)
    page = rendered(TEXT.read_text(encoding="utf-8"), blocks(found))
    (DOCS / "quality.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
