"""Draw the first image of the README: `python -m benchmarks.objects.readme_image`.

One scene, two questions about it, and the patches that the model reads to answer with 16 and with 4 tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from mmtok.apps.answering import Answer, ask, load_pipeline
from mmtok.apps.embedded import SCALE, SCENE
from mmtok.publish import stage
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import Question, present_question, what_question
from mmtok.tiny.scenes import GRID, PATCH, Scene, sample_scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUDGETS = (None, 16, 4)
RIGHT, WRONG = "#1a7f37", "#b3261e"


def two_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Ask what there is of a category, and whether another object is there.

    Raises:
        ValueError: no category has exactly one object in the scene.
    """
    named = what_question(scene, rng)
    if named is None or len(scene.objects) < 2:
        raise ValueError(
            f"The scene of {', '.join(scene.names)} has no object to ask for by category: try another seed."
        )
    asked = present_question(scene, rng)
    while asked.name == named.name:
        asked = present_question(scene, rng)
    return [asked, named]


def dimmed(pixels: NDArray[np.uint8], answer: Answer) -> NDArray[np.uint8]:
    """Leave the kept patches as they are and take light and colour from the others: like `pixels`."""
    kept: NDArray[np.bool_] = np.zeros((GRID, GRID), bool)
    if answer.budget is None:
        kept[:] = True
    else:
        kept[answer.selection.row.numpy(), answer.selection.column.numpy()] = True
    side = PATCH * SCALE
    shown = kept.repeat(side, 0).repeat(side, 1)[..., None]
    gray = pixels.mean(-1, keepdims=True)
    dark = 0.16 * pixels + 0.14 * gray
    return np.where(shown, pixels, dark).astype(np.uint8)


def draw_panel(axes: Axes, pixels: NDArray[np.uint8], answer: Answer, right: str, *, title: str) -> None:
    """Show an image under the number of tokens, with the answer below it and a frame around every kept patch."""
    axes.imshow(dimmed(pixels, answer), interpolation="antialiased")
    if answer.budget is not None:
        side = PATCH * SCALE
        for row, column in zip(answer.selection.row.tolist(), answer.selection.column.tolist(), strict=True):
            place = (column * side - 0.5, row * side - 0.5)
            axes.add_patch(_frame(place, side))
    axes.set_axis_off()
    axes.set_title(title, fontsize=12, color="0.25", pad=5)
    good = answer.answer == right
    axes.text(
        0.5,
        -0.035,
        f"“{answer.answer}” {'✓' if good else '✗'}",
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=15,
        weight="bold",
        color=RIGHT if good else WRONG,
    )


def _frame(place: tuple[float, float], side: int) -> Rectangle:

    return Rectangle(place, side, side, fill=False, edgecolor="#ffd400", linewidth=1.4)


def readme_figure(image: Image.Image, questions: Sequence[Question], answers: Sequence[Sequence[Answer]]) -> Figure:
    """One row for each question, one column for each budget."""
    pixels = np.asarray(image)
    figure = Figure(figsize=(9.6, 3.95 * len(questions)), facecolor="white")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(questions), 1, squeeze=False)
    for part, question, row in zip(parts[:, 0], questions, answers, strict=True):
        part.suptitle(question.text, fontsize=16, weight="bold", y=0.985)
        places = part.subplots(1, len(row))
        part.subplots_adjust(left=0.01, right=0.99, top=0.83, bottom=0.09, wspace=0.04)
        for axes, answer in zip(places, row, strict=True):
            title = f"all {answer.vision_tokens} tokens" if answer.budget is None else f"{answer.vision_tokens} tokens"
            draw_panel(axes, pixels, answer, question.answer, title=title)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask, draw and write the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=checkpoint_path(), help="stock checkpoint")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=40, help="of the scene and its questions")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    scene = sample_scene(SCENE, rng)
    questions = two_questions(scene, rng)
    image = scene.image(SCALE)
    with TemporaryDirectory() as place:
        pipe = load_pipeline(stage(options.base, Path(place) / "staged", check=False).path)
        answers = [
            [ask(pipe, image, question.text, budget, max_new_tokens=4) for budget in BUDGETS] for question in questions
        ]
    readme_figure(image, questions, answers).savefig(options.output, dpi=110)
    for question, row in zip(questions, answers, strict=True):
        print(question.text, *(f"{answer.vision_tokens}: {answer.answer}" for answer in row), sep="  ")


if __name__ == "__main__":
    main()
