"""The embedded model, staged, loaded through `pipeline()`, asked with all vision tokens and with fewer and fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mmtok.publish import stage
from mmtok.tiny import checkpoint_path

from .answer import Answer, Budget
from .answering import ask_with_budgets, load_pipeline, model_inputs, warm_up
from .embedded import Example, example
from .figure import Panel, comparison_figure
from .overlay import overlay
from .progress import steps
from .seen_image import seen_images
from .wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import ImageTextToTextPipeline

# Down to so few that the last question of the demo, which is about all objects, is answered wrongly.
BUDGETS: tuple[Budget, ...] = (None, 16, 4)
# Enough for a description of five objects; answers of a word end after it.
ANSWER_TOKENS = 32
_RIGHT, _WRONG = "#1a7f37", "#b3261e"


@dataclass(frozen=True)
class Demo:
    """What the demo did.

    Attributes:
        example: the image and the questions, with their right answers.
        answers: for each question one `Answer` for each budget.
        model_class: where the model's class comes from and its name.
        figure: the image with the kept vision tokens.
    """

    example: Example
    answers: tuple[tuple[Answer, ...], ...]
    model_class: str
    figure: Figure


def run_demo(
    base: str | Path | None = None,
    folder: str | Path = "demo-model",
    *,
    seed: int = 40,
    budgets: Sequence[Budget] = BUDGETS,
    check: bool = True,
    calls: int = 3,
) -> Demo:
    """Stages `base` into `folder`, loads that and asks.

    Args:
        base: a stock checkpoint; the embedded one by default.
        folder: where to stage; a folder staged before is replaced.
        seed: of the image and the questions.
        budgets: values of `vision_token_budget`.
        check: staging loads the folder in a clean process and compares it with its base.
        calls: how often each question is asked with each budget, for the median of the times.

    Raises:
        ValueError: no usable base, or `folder` holds something else.
    """
    shown = example(seed)
    with steps(4 + len(shown.questions) * len(budgets)) as begin:
        begin(f"Staging into {folder}")
        staged = stage(checkpoint_path() if base is None else base, folder, overwrite=True, check=check)
        begin("Loading it through pipeline()")
        pipe = load_pipeline(staged.path)
        begin("Warming up")
        warm_up(pipe, shown.image, shown.questions[0].text)
        given: dict[str, Any] = {"max_new_tokens": ANSWER_TOKENS, "calls": calls, "begin": begin}
        answers = [ask_with_budgets(pipe, shown.image, each.text, budgets, **given) for each in shown.questions]
        begin("Drawing")
        figure = demo_figure(pipe, shown, answers)
    model_class = type(pipe.model)
    name = f"{model_class.__module__}.{model_class.__name__}"
    return Demo(shown, tuple(tuple(row) for row in answers), name, figure)


def demo_figure(pipe: ImageTextToTextPipeline, shown: Example, answers: Sequence[Sequence[Answer]]) -> Figure:
    """One row for each question, one column for each budget; right answers are green."""
    inputs = model_inputs(pipe, shown.image, shown.questions[0].text)
    [image] = seen_images(inputs, pipe.model.config, pipe.processor.image_processor)
    rows = [
        [
            Panel(
                overlay(image, None if answer.budget is None else answer.selection),
                f"{_tokens(answer)} → {answer.answer or '(nothing)'}",
                f"prompt of {counted(answer.prompt_tokens, 'token')} · coverage {answer.coverage:.1%}",
                _RIGHT if answer.answer == question.answer else _WRONG,
            )
            for answer in row
        ]
        for question, row in zip(shown.questions, answers, strict=True)
    ]
    return comparison_figure(
        rows,
        row_titles=[question.text for question in shown.questions],
        title="What the language model reads of the image: vision tokens kept by MMTok for each question",
    )


def demo_table(demo: Demo) -> Table:
    """Question, budget, answer, tokens in the prompt, coverage relative to all tokens, time."""
    table = Table(title=None, header_style="bold")
    table.add_column("question")
    for name in ("vision tokens", "answer", "", "tokens in the prompt", "coverage", "time"):
        table.add_column(name, justify="left" if name in ("answer", "") else "right", no_wrap=name != "answer")
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
        "objects": list(demo.example.objects),
        "questions": [
            {"right_answer": question.answer, "answers": [answer.as_json() for answer in row]}
            for question, row in zip(demo.example.questions, demo.answers, strict=True)
        ],
    }


def _tokens(answer: Answer) -> str:
    kept = counted(answer.vision_tokens, "token")
    return f"all {kept}" if answer.budget is None else kept
