"""The embedded model, staged, loaded through `pipeline()`, asked with all vision tokens and with few.

    python -m mmtok.apps.demo

Renders a picture, asks three questions with every budget, prints a table and writes demo.png: the picture with the kept
patches, one row for each question and one column for each budget.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmtok.publish import stage
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import Question, color_question, existence_question
from mmtok.tiny.scenes import Scene, SceneSettings, sample_scene

from .answering import Answer, Budget, ask, load_pipeline, model_inputs
from .figure import Panel, comparison_figure
from .overlay import overlay
from .progress import steps
from .seen_image import seen_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import ImageTextToTextPipeline

BUDGETS: tuple[Budget, ...] = (None, 16, 8, 4)
SCENE = SceneSettings(min_objects=5)
# Enough for a description of five objects; answers of a word end after it.
ANSWER_TOKENS = 32
_RIGHT, _WRONG = "#1a7f37", "#b3261e"


@dataclass(frozen=True)
class Demo:
    """What the demo did.

    Attributes:
        scene: the picture, with its ground truth.
        questions: with their right answers.
        answers: for each question one `Answer` for each budget.
        model_class: where the model's class comes from and its name.
        figure: the picture with the kept patches.
    """

    scene: Scene
    questions: tuple[Question, ...]
    answers: tuple[tuple[Answer, ...], ...]
    model_class: str
    figure: Figure


def run_demo(
    base: str | Path | None = None,
    folder: str | Path = "demo-model",
    *,
    seed: int = 7,
    budgets: Sequence[Budget] = BUDGETS,
    check: bool = True,
    calls: int = 3,
) -> Demo:
    """Stages `base` into `folder`, loads that and asks.

    Args:
        base: a stock checkpoint; the embedded one by default.
        folder: where to stage; a folder staged before is replaced.
        seed: of the picture and the questions.
        budgets: values of `vision_token_budget`.
        check: staging loads the folder in a clean process and compares it with its base.
        calls: how often each question is asked, for the median of the times.

    Raises:
        ValueError: no usable base, or `folder` holds something else.
    """
    rng = np.random.default_rng(seed)
    scene = sample_scene(SCENE, rng)
    questions = demo_questions(scene, rng)
    with steps(3 + len(questions) * len(budgets)) as begin:
        begin(f"Staging into {folder}")
        staged = stage(checkpoint_path() if base is None else base, folder, overwrite=True, check=check)
        begin("Loading it through pipeline()")
        pipe = load_pipeline(staged.path)
        ask(pipe, scene.image(), questions[0].text, None)  # the first call of a process is slow for other reasons
        answers = []
        for question in questions:
            row = []
            for budget in budgets:
                begin("Answering")
                row.append(ask(pipe, scene.image(), question.text, budget, max_new_tokens=ANSWER_TOKENS, calls=calls))
            answers.append(tuple(row))
        begin("Drawing")
        figure = demo_figure(pipe, scene, questions, answers)
    model_class = type(pipe.model)
    return Demo(scene, questions, tuple(answers), f"{model_class.__module__}.{model_class.__name__}", figure)


def demo_questions(scene: Scene, rng: np.random.Generator) -> tuple[Question, ...]:
    """One question that is true, one about what is not there but nearly, and one about a colour."""
    asked = [
        existence_question(scene, rng, present=True),
        existence_question(scene, rng, present=False),
        color_question(scene, rng),
    ]
    return tuple(question for question in asked if question is not None)


def demo_figure(
    pipe: ImageTextToTextPipeline,
    scene: Scene,
    questions: Sequence[Question],
    answers: Sequence[Sequence[Answer]],
) -> Figure:
    """One row for each question, one column for each budget; right answers are green."""
    inputs = model_inputs(pipe, scene.image(), questions[0].text)
    [picture] = seen_images(inputs, pipe.model.config, pipe.processor.image_processor)
    rows = [
        [
            Panel(
                overlay(picture, None if answer.budget is None else answer.selection),
                f"{_tokens(answer)} → {answer.answer or '(nothing)'}",
                f"prompt of {answer.prompt_tokens} tokens · coverage {answer.coverage:.1%}",
                _RIGHT if answer.answer == question.answer else _WRONG,
            )
            for answer in row
        ]
        for question, row in zip(questions, answers, strict=True)
    ]
    return comparison_figure(
        rows,
        row_titles=[question.text for question in questions],
        title="What the language model reads of the picture: vision tokens kept by MMTok for each question",
    )


def demo_table(demo: Demo) -> Table:
    """Question, budget, answer, tokens in the prompt, coverage relative to all tokens, time."""
    table = Table(title=None, header_style="bold")
    table.add_column("question")
    for name in ("vision tokens", "answer", "", "tokens in the prompt", "coverage", "time"):
        table.add_column(name, justify="left" if name in ("answer", "") else "right", no_wrap=name != "answer")
    for question, row in zip(demo.questions, demo.answers, strict=True):
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


def as_json(demo: Demo) -> dict[str, Any]:
    """Plain values."""
    return {
        "model_class": demo.model_class,
        "objects": [item.name for item in demo.scene.objects],
        "questions": [
            {"right_answer": question.answer, "answers": [answer.as_json() for answer in row]}
            for question, row in zip(demo.questions, demo.answers, strict=True)
        ],
    }


def _tokens(answer: Answer) -> str:
    return f"all {answer.vision_tokens} tokens" if answer.budget is None else f"{answer.vision_tokens} tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the demo."""
    parser.add_argument("--base", help="stock checkpoint to stage (default: the embedded one)")
    parser.add_argument("--folder", type=Path, default=Path("demo-model"), help="where to stage (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("demo.png"), help="the picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the picture and the questions (default: %(default)s)")
    parser.add_argument("--no-check", action="store_true", help="leave out the check of the staged folder")
    parser.add_argument("--web", action="store_true", help="open a page instead: your own pictures and questions")
    parser.add_argument("--port", type=_port, metavar="N", help="of the page (default: the first free one from 7860)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535.")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Runs the demo and shows what came out."""
    if options.web:
        serve_page(options)
        return
    demo = run_demo(options.base, options.folder, seed=options.seed, check=not options.no_check)
    demo.figure.savefig(options.output, dpi=150)
    if options.json:
        print(json.dumps({**as_json(demo), "picture": str(options.output)}, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f"\nAnswered by {demo.model_class}", soft_wrap=True)
    console.print("The picture shows " + ", ".join(item.name for item in demo.scene.objects) + ".", soft_wrap=True)
    console.print(demo_table(demo))
    console.print(f"The patches that were kept for each question: {options.output}", soft_wrap=True)


def serve_page(options: argparse.Namespace) -> None:
    """Stages, and serves the page on loopback until it is interrupted.

    Raises:
        ValueError: Gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ValueError("The page needs Gradio: pip install 'mmtok[web]'.")
    from .web import launch

    with steps(2) as begin:
        begin(f"Staging into {options.folder}")
        base = checkpoint_path() if options.base is None else options.base
        staged = stage(base, options.folder, overwrite=True, check=not options.no_check)
        begin("Loading it through pipeline()")
        pipe = load_pipeline(staged.path)
    launch(pipe, embedded=options.base is None, server_name="127.0.0.1", server_port=options.port)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
