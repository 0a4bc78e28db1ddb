"""Draws the figures of docs/reports/quality.md: `python -m benchmarks.quality.plots`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.objects.held_out import CROWDED
from mmtok.apps.drawing import overlay
from mmtok.apps.seen import seen_images
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.selectors import METHODS
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import is_there

from .cases import EVIDENCE_SEED, RESULTS, ROOT, SHARED_BUDGET
from .crops import CLUTTERED, SCALE, make_crops_checkpoint
from .runs import drawn

IMAGES = ROOT / "docs" / "images"
TITLES = {
    "scenes": "Images of 2 to 5 objects",
    "crowded": "Images of 8 to 11 objects",
    "unseen": "Images of 2 to 5 objects in a style that training did not draw",
    "tiles": "Five crops, images of 8 to 11 objects",
}
_MARKERS = "osD^vP*Xhd<>"


def retention_figure(results: Mapping[str, Any], path: Path, title: str) -> None:
    """Draws mean retention over the budget, a line with its 95 % interval for every method that was compared."""
    methods = [name for name in (*METHODS, SHARED_BUDGET.name) if any(c["method"] == name for c in results["cells"])]
    figure = Figure(figsize=(8.4, 5.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colors = dict(zip([name for name in methods if name != "MMTok"], colormaps["tab10"](range(10)), strict=False))
    for index, method in enumerate(methods):
        cells = [cell for cell in results["cells"] if cell["method"] == method and "retention" in cell]
        means = [cell["retention"]["mean"] for cell in cells]
        # Side by side, so that intervals at one budget can be told apart.
        places = [cell["budget"] * 1.012 ** (index - len(methods) / 2) for cell in cells]
        kept, low, high = (100 * np.array([mean[key] for mean in means]) for key in ("estimate", "low", "high"))
        axes.errorbar(
            places,
            kept,
            yerr=[np.maximum(kept - low, 0), np.maximum(high - kept, 0)],
            label=method,
            color=colors.get(method, "#c0392b"),
            linewidth=1.3 if method in colors else 2.6,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4.5,
            elinewidth=0.9,
            capsize=2,
        )
    budgets = sorted({cell["budget"] for cell in results["cells"] if cell["budget"] is not None})
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("vision tokens kept per crop")
    axes.set_ylabel("score kept, % of all tokens (mean over tasks)")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right", ncols=2)
    _save(figure, path)


def gallery(
    rows: Sequence[Sequence[tuple[str, Image.Image]]], path: Path, title: str, size: tuple[float, float] = (2.7, 3.0)
) -> None:
    """Draws images with captions, a row of them for every entry of `rows`; `size` is that of each, in inches."""
    widest = max(len(row) for row in rows)
    figure = Figure(figsize=(size[0] * widest, size[1] * len(rows) + 0.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), widest, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for line, row in zip(grid, rows, strict=True):
        for axes, (caption, image) in zip(line, row, strict=False):
            axes.imshow(image)
            axes.set_title(caption, fontsize=8.5)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the program's version in the file the same results make the same bytes.
    figure.savefig(path, metadata={"Software": None})


def draw_questions(path: Path) -> None:
    """The same image under different questions, at one budget."""
    checkpoint = Checkpoint.load(checkpoint_path())
    rows = []
    for item in drawn(CROWDED, 2, EVIDENCE_SEED + 1):
        asked = [is_there(name) for name in item.scene.names[:3]]
        kept = [(question, _kept(checkpoint, item.image, question, vision_token_budget=6)) for question in asked]
        rows.append([("the image", item.image.resize((336, 336))), *kept])
    gallery(rows, path, "Six of 144 tokens, for different questions about the same image")


def draw_shared(path: Path) -> None:
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


if __name__ == "__main__":
    for name, title in TITLES.items():
        results = json.loads((RESULTS / f"quality-{name}.json").read_text(encoding="utf-8"))
        retention_figure(results, IMAGES / f"quality-{name}.png", title)
    draw_questions(IMAGES / "quality-gallery.png")
    draw_shared(IMAGES / "quality-shared.png")
