"""What is kept of a sign and of a page, by method: `python -m benchmarks.reading.drawing` writes docs/images/text.png.

The scenes are the first of their kind whose question the embedded Qwen2.5-VL answers right with all tokens and wrong
with the paper's selection, so that what is lost there can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from benchmarks.quality.cases import ANSWER_SEED
from benchmarks.quality.text_depth import QWEN_METHODS
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.runner import generate_by_selector
from mmtok.evaluation.selectors import Selector, shrunk_grid, shrunk_inputs
from mmtok.hub.options import PruningOptions
from mmtok.tiny import QWEN, checkpoint_path
from mmtok.tiny.questions import Question
from mmtok.tiny.reading import HELD_OUT, TOKEN, Kind, color_question, sample_reading_scene
from mmtok.tiny.scenes import Scene

from .evaluate import ANSWER_TOKENS, load_qwen

PATH = Path(__file__).resolve().parents[2] / "docs" / "images" / "text.png"
SHARE = 0.05
GRIDS: dict[Kind, tuple[int, int]] = {"signs": (11, 15), "page": (12, 15)}
METHODS = ("MMTok", "spread", "CDPruner", "resized")
FONT = ImageFont.load_default(18)


def scenes(kind: Kind) -> Iterator[tuple[Scene, Question]]:
    """Scenes of a kind that are large enough for a panel, with a question about their print."""
    rng = np.random.default_rng([ANSWER_SEED, len(kind)])
    while True:
        scene = sample_reading_scene(HELD_OUT, *GRIDS[kind], rng, kind=kind)
        if scene.prints:
            yield scene, color_question(scene.prints[0])


@torch.no_grad()
def read(qwen: Checkpoint, image: Image.Image, question: str, method: str) -> tuple[str, Image.Image]:
    """The answer with `SHARE` of the tokens, and the image with what is not read darkened."""
    inputs, model = qwen.inputs([question], [image]), qwen.model
    batch = EncodedBatch.of(model, inputs, (), [0])
    [layout], how = batch.encoded.layouts, QWEN_METHODS.get(method)
    rows, columns = (int(part.max()) + 1 for part in (layout.row, layout.column))
    budget = PruningOptions(vision_token_budget=SHARE).budget_of(rows * columns)
    if isinstance(how, Selector):
        [answer], _ = generate_by_selector(qwen, inputs, batch, how, SHARE, ANSWER_TOKENS)
        kept = how.select(batch.crops[0].view, budget).indices.tolist()
    elif how is None:
        answer = generated(qwen, shrunk_inputs(qwen, [question], [image], [layout], SHARE), vision_token_budget=None)
        small = shrunk_grid(rows, columns, budget)
        side = [TOKEN * each for each in small]
        shown = image.resize((side[1], side[0]), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.NEAREST)
        return answer, shown
    else:
        answer = generated(qwen, inputs, vision_token_budget=SHARE, **how)
        kept = model.select_vision_tokens(**inputs, vision_token_budget=SHARE, **how).images[0].indices.tolist()
    shown = ImageEnhance.Brightness(image).enhance(0.3)
    for index in kept:
        left, top = TOKEN * (index % columns), TOKEN * (index // columns)
        box = (left, top, left + TOKEN, top + TOKEN)
        shown.paste(image.crop(box), box[:2])
        ImageDraw.Draw(shown).rectangle(box, outline=(255, 204, 0), width=2)
    return answer, shown


def generated(qwen: Checkpoint, inputs: dict[str, Any], **options: Any) -> str:
    given = qwen.model.generate(**inputs, **options, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return qwen.processor.batch_decode(given[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()


def chosen(qwen: Checkpoint, kind: Kind) -> tuple[Image.Image, Question]:
    for scene, question in scenes(kind):
        image = scene.image()
        whole = generated(qwen, qwen.inputs([question.text], [image]), vision_token_budget=None)
        if whole == question.answer != read(qwen, image, question.text, "MMTok")[0]:
            return image, question
    raise AssertionError("scenes are drawn without end")


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    qwen, gap, line = load_qwen(checkpoint_path(QWEN)), 12, 24
    rows = []
    for kind in GRIDS:
        image, question = chosen(qwen, kind)
        row = Image.new("RGB", ((image.width + gap) * len(METHODS), image.height + 3 * line), "white")
        pen = ImageDraw.Draw(row)
        pen.text((0, 0), f'"{question.text}" {question.answer}, with {SHARE:.0%} of the tokens:', "black", FONT)
        for number, method in enumerate(METHODS):
            answer, shown = read(qwen, image, question.text, method)
            left = number * (image.width + gap)
            row.paste(shown, (left, line))
            pen.text((left, line + image.height), f"{method}: {answer}", "black", FONT)
        rows.append(row)
    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        picture.paste(row, (0, sum(each.height for each in rows[:number])))
    picture.quantize(128).save(PATH, optimize=True)
    print(PATH)


if __name__ == "__main__":
    main()
