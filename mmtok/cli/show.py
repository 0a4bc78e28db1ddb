"""`mmtok show`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtok.apps.answer import Answer, Explanation
from mmtok.apps.answering import ask_with_budgets, explain_inputs, model_inputs
from mmtok.apps.colors import ColorBy
from mmtok.apps.figure import Panel, comparison_figure
from mmtok.apps.overlay import overlay
from mmtok.apps.progress import steps
from mmtok.apps.seen_image import SeenImage, seen_images
from mmtok.apps.wording import counted
from mmtok.images import read_image

from .common import (
    add_parser,
    add_question_options,
    budget_name,
    call_pruning_options,
    opened_pipeline,
    print_json,
)
from .tables import print_table
from .values import writable_image

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline

_DESCRIPTION = """\
Draws which vision tokens of an image the language model reads: one row for each question, one column for each budget.
The patch of a kept token is framed in the colour of its gain; the bar in it splits the gain into what covers the
question (orange) and what covers the image (blue). Crops are laid out as they were cut: tiles of
LLaVA-NeXT, the mosaic of LLaVA-OneVision."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = 'mmtok show photo.jpg "Is there a dog?" "What colour is the car?" --budgets all 64 16 4'
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    add_question_options(parser, ["all", "16", "8", "4"], 32)
    parser.add_argument("--output", type=Path, default=Path("kept.png"), help="the drawing (default: %(default)s)")
    parser.add_argument("--color-by", choices=["gain", "text share"], default="gain", help="colour of the frames")
    parser.add_argument("--answers", action="store_true", help="answer the questions too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draws the image and prints what was kept."""
    image, output = read_image(options.image), writable_image(options.output)
    with steps(1 + len(options.questions) * len(options.budgets)) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
            rows = [_read(pipe, image, question, options, begin) for question in options.questions]
            inputs = model_inputs(pipe, image, options.questions[0])
            [seen] = seen_images(inputs, pipe.model.config, pipe.processor.image_processor)
    panels = [[_panel(seen, read, options.color_by) for read in row] for row in rows]
    figure = comparison_figure(panels, row_titles=options.questions, color_by=options.color_by)
    figure.savefig(output, dpi=150)
    if options.json:
        print_json({"image": str(output), "selections": [read.as_json() for row in rows for read in row]})
        return
    print_table(
        ["question", "budget", "answer", "vision tokens", "tokens in the prompt", "coverage"],
        [
            [
                read.question,
                budget_name(read.budget),
                getattr(read, "answer", ""),
                str(read.vision_tokens),
                f"{read.prompt_tokens} of {read.full_prompt_tokens}",
                f"{read.coverage:.1%}",
            ]
            for row in rows
            for read in row
        ],
        left=["question", "answer"],
    )
    print(f"Drawn in {output}.")


def _read(
    pipe: ImageTextToTextPipeline,
    image: Image.Image,
    question: str,
    options: argparse.Namespace,
    begin: Callable[[str], None],
) -> Sequence[Explanation]:
    """What is read with each budget, and with `--answers` what is answered."""
    pruning_options = call_pruning_options(options)
    if options.answers:
        given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
        return ask_with_budgets(pipe, image, question, options.budgets, **given)
    inputs, read = model_inputs(pipe, image, question), []
    for budget in options.budgets:
        begin("Selecting")
        read.append(explain_inputs(pipe, inputs, question, budget, **pruning_options))
    return read


def _panel(seen: SeenImage, read: Explanation, color_by: ColorBy) -> Panel:
    title = counted(read.vision_tokens, "token")
    if isinstance(read, Answer):
        title += f" → {read.answer or '(nothing)'}"
    drawn = overlay(seen, None if read.budget is None else read.selection, color_by=color_by)
    return Panel(drawn, title, f"prompt of {counted(read.prompt_tokens, 'token')} · coverage {read.coverage:.1%}")
