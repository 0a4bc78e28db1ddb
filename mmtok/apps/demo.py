"""The embedded models: what they know, images and questions for them, and `mmtok demo`.

Everything here that depends on what the models were trained on is in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.table import Table

from mmtok.evaluation.checkpoint import model_inputs
from mmtok.publish import stage
from mmtok.tiny import LLAVA, QWEN, checkpoint_path, reading
from mmtok.tiny.catalogue import NAMES
from mmtok.tiny.questions import Question, absent_question, count_question, present_question, what_question
from mmtok.tiny.reading import ReadingSettings, color_question, kind_question, sample_reading_scene
from mmtok.tiny.scenes import SceneSettings, sample_scene

from .answering import Answer, Budget, answer_inputs, counted, load_pipeline, warm_up
from .drawing import kept_figure
from .seen import seen_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Down to so few that the last question of the demo, which is about all objects, is answered wrongly.
BUDGETS: tuple[Budget, ...] = (None, 16, 4)
# Enough for a description of five objects; answers of a word end after it.
ANSWER_TOKENS = 32
DPI = 100
SCENE = SceneSettings(4, 5, 44.0, 60.0)
READING_SCENE = ReadingSettings(objects=(3, 4), prints=(2, 2), heights=(20, 28))
# Images are drawn this many times as large as the model reads them, for people to look at.
SCALE = 4
_DRAWN = "This is a small model that comes with the package. It was trained on drawn images alone and knows"
_MEANS_NOTHING = (
    "What it answers about a photo means nothing, and how well it does with few vision tokens says nothing about a "
    "model of 7B."
)
KNOWS = {
    LLAVA: f"{_DRAWN} {len(NAMES)} everyday objects in the drawings of a few emoji sets. {_MEANS_NOTHING}",
    QWEN: f"{_DRAWN} {len(reading.NAMES)} everyday objects in the drawings of an emoji set, and words and numbers of "
    f"three or four characters in two typefaces. {_MEANS_NOTHING}",
}
COVERAGE = (
    "Coverage says how well the kept vision tokens stand in for all of them: for each word of the question and each "
    "part of the image, how similar the nearest kept token is. All tokens have 100%. It is what the method maximises, "
    "not an accuracy: an answer can be wrong at a high coverage."
)

TIMES = (
    "Times are those of a question about an image that has been encoded: the vision tower runs once for all answers "
    "and is in none of them."
)

# Model: (vision tokens kept, of how many, how many times earlier the first token comes), of docs/reports/speed.md.
SPEEDUPS = {"LLaVA-1.5-7B": (64, 576, 4.6), "LLaVA-NeXT-7B": (160, 2880, 10.0)}

TOO_SMALL = (
    "The embedded model is too small for pruning to pay: choosing the tokens takes about as long as reading them. In "
    "the shapes of real models, on two CPU cores, the first token comes "
    + " and ".join(
        f"{times} times earlier with {kept} of {total:,} vision tokens ({model})"
        for model, (kept, total, times) in SPEEDUPS.items()
    )
    + ". docs/reports/speed.md has all of it."
)


@dataclass(frozen=True)
class Example:
    """An image, the names of the objects that it shows and what is printed on it, and questions with right answers."""

    image: Image.Image
    shown: tuple[str, ...]
    questions: tuple[Question, ...]


def example(seed: int | None = None, model: str = LLAVA) -> Example:
    """Draws an image and asks about it.

    LLaVA is asked what animal (or the like) there is, for an object that is not there, and for a count; Qwen2.5-VL what
    is printed, in two ways, and for an object that is not there. Without a seed it is another one each time.
    """
    rng = np.random.default_rng(seed)
    if model == QWEN:
        return _reading_example(rng)
    scene = sample_scene(SCENE, rng)
    asked = (
        # Where no category has exactly one object, the first question asks for an object by its name.
        what_question(scene, rng) or present_question(scene, rng),
        absent_question(scene, rng, "adversarial"),
        count_question(scene),
    )
    return Example(scene.image(SCALE), scene.names, tuple(each for each in asked if each is not None))


def _reading_example(rng: np.random.Generator) -> Example:
    scene = None
    while scene is None or len(scene.prints) < 2 or not scene.objects:
        scene = sample_reading_scene(READING_SCENE, 9, 12, rng, kind="mixed")
    asked = (
        color_question(scene.prints[0]),
        kind_question(scene, rng) or color_question(scene.prints[1]),
        absent_question(scene, rng, "adversarial", reading.NAMES),
    )
    return Example(scene.image(), (*scene.names, *(line.text for line in scene.prints)), asked)


@dataclass(frozen=True)
class Demo:
    """What the demo did: for each question an answer for each budget, by a class of this module and name."""

    example: Example
    answers: tuple[tuple[Answer, ...], ...]
    model_class: str
    figure: Figure


def run_demo(
    model: str = LLAVA,
    folder: str | Path = "demo-model",
    *,
    seed: int = 40,
    budgets: Sequence[Budget] = BUDGETS,
    check: bool = True,
    calls: int = 3,
    begin: Callable[[str], None] = lambda _: None,
) -> Demo:
    """Stages an embedded model into `folder`, loads that and asks.

    Args:
        model: the name of the embedded model.
        folder: where to stage; a folder staged before is replaced.
        seed: of the image and the questions.
        check: staging loads the folder in a clean process and compares it with its base.
        calls, begin: as for `answer_inputs`; there are 4 more steps.

    Raises:
        ValueError: `folder` holds something else.
    """
    shown = example(seed, model)
    begin(f"Staging into {folder}")
    staged = stage(checkpoint_path(model), folder, overwrite=True, check=check)
    begin("Loading it through pipeline()")
    pipe = load_pipeline(staged.path)
    begin("Warming up")
    warm_up(pipe, shown.image, shown.questions[0].text)
    given: dict[str, Any] = {"max_new_tokens": ANSWER_TOKENS, "calls": calls, "begin": begin}
    asked = [(each.text, model_inputs(pipe, shown.image, each.text)) for each in shown.questions]
    answers = [answer_inputs(pipe, inputs, text, budgets, **given) for text, inputs in asked]
    begin("Drawing")
    figure = kept_figure(
        seen_of(pipe, asked[0][1], shown.image),
        answers,
        title="What the language model reads of the image: vision tokens kept by MMTok for each question",
        right=[question.answer for question in shown.questions],
    )
    model_class = type(pipe.model)
    name = f"{model_class.__module__}.{model_class.__name__}"
    return Demo(shown, tuple(tuple(row) for row in answers), name, figure)


def demo_table(demo: Demo) -> Table:
    """Question, budget, answer, tokens in the prompt, coverage relative to all tokens, time."""
    table = Table(header_style="bold")
    for name in ("question", "vision tokens", "answer", "", "tokens in the prompt", "coverage", "time"):
        wraps = name in ("question", "answer")
        table.add_column(name, justify="left" if wraps or not name else "right", no_wrap=not wraps)
    for question, row in zip(demo.example.questions, demo.answers, strict=True):
        for index, answer in enumerate(row):
            right = answer.answer == question.answer
            table.add_row(
                question.text if index == 0 else "",
                f"all {answer.vision_tokens}" if answer.budget is None else str(answer.vision_tokens),
                answer.answer,
                "[green]right[/]" if right else f"[red]wrong: {question.answer}[/]",
                f"{answer.prompt_tokens} of {answer.full_prompt_tokens}",
                f"{answer.coverage:.1%}",
                f"{1000 * answer.seconds:.0f} ms",
                end_section=index == len(row) - 1,
            )
    return table


def where_it_breaks(demo: Demo) -> str:
    """A sentence for each question that is right with all tokens and wrong with fewer; one that says so if none is."""
    sentences = []
    for question, row in zip(demo.example.questions, demo.answers, strict=True):
        wrong = [answer for answer in row if answer.answer != question.answer]
        if row[0].answer == question.answer and wrong:
            most = max(wrong, key=lambda answer: answer.vision_tokens)
            kept = counted(most.vision_tokens, "vision token")
            sentences.append(f"“{question.text}” breaks at {kept}, with a coverage of {most.coverage:.1%}.")
    return " ".join(sentences) or "No answer that is right with all vision tokens is wrong with fewer here."


def as_json(demo: Demo) -> dict[str, Any]:
    """Plain values."""
    return {
        "model_class": demo.model_class,
        "shown": list(demo.example.shown),
        "questions": [
            {"right_answer": question.answer, "answers": [answer.as_json() for answer in row]}
            for question, row in zip(demo.example.questions, demo.answers, strict=True)
        ],
    }
