"""`mmtok show`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .asked import add_video_options, asked_about
from .common import (
    add_parser,
    add_question_options,
    budget_name,
    call_pruning_options,
    opened_pipeline,
    print_json,
)
from .tables import print_covered, print_table
from .values import add_output_option, writable_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image
    from transformers import ImageTextToTextPipeline

    from mmtok.apps.answer import Explanation
    from mmtok.apps.colors import ColorBy
    from mmtok.apps.figure import Panel
    from mmtok.apps.seen_image import SeenImage
    from mmtok.apps.seen_video import SeenVideo
    from mmtok.videos import Video

_DESCRIPTION = """\
Draws which vision tokens of an image the language model reads: one row for each question, one column for each budget.
The patch of a kept token is framed in the colour of its gain; the bar in it splits the gain into what covers the
question (orange) and what covers the image (blue). Crops are laid out as they were cut: tiles of
LLaVA-NeXT, the mosaic of LLaVA-OneVision. Of a video there is a row of frames for each question and budget, at most 8;
Qwen-VL reads frames in pairs, of which the first is drawn."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = (
        'mmtok show photo.jpg "Is there a dog?" "What colour is the car?" --budgets all 64 16 4\n'
        'mmtok show --video clip.mp4 "Where is the ball?" --model ./qwen3-vl-mmtok --budgets 0.2'
    )
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    add_question_options(parser, ["all", "16", "8", "4"], 32)
    add_video_options(parser)
    add_output_option(parser, "kept.png")
    parser.add_argument("--color-by", choices=["gain", "text share"], default="gain", help="colour of the frames")
    parser.add_argument("--answers", action="store_true", help="answer the questions too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draws the image or video and prints what was kept."""
    from mmtok.apps.answering import model_inputs
    from mmtok.apps.progress import steps
    from mmtok.apps.seen_image import seen_images
    from mmtok.apps.seen_video import SeenVideo, seen_video
    from mmtok.images import cut_off
    from mmtok.videos import Video

    image = asked_about(options)
    output = writable_image(options.output, "kept.png", overwrite=options.overwrite, source=options.image)
    seen: SeenImage | SeenVideo
    lost = ""
    with steps(1 + len(options.questions) * len(options.budgets)) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
            rows = [_read(pipe, image, question, options, begin) for question in options.questions]
            inputs = model_inputs(pipe, image, options.questions[0])
            if isinstance(image, Video):
                seen = seen_video(inputs, image, pipe.model.config, pipe.processor.video_processor)
            else:
                [seen] = seen_images(inputs, pipe.model.config, pipe.processor.image_processor)
                lost = cut_off(image.size, pipe.processor.image_processor)
    _figure(seen, rows, options).savefig(output, dpi=150)
    if options.json:
        video = {"video": seen.as_json()} if isinstance(seen, SeenVideo) else {}
        print_json(
            {
                "image": str(output),
                "cut_off": lost,
                **video,
                "selections": [read.as_json() for row in rows for read in row],
            }
        )
        return
    _print(seen, rows)
    if lost:
        print(lost)
    print(f"Drawn in {output}.")


def _print(seen: SeenImage | SeenVideo, rows: Sequence[Sequence[Explanation]]) -> None:
    from mmtok.apps.seen_video import SeenVideo
    from mmtok.apps.video_figure import tokens_per_frame

    columns = ["question", "budget", "answer", "vision tokens", "tokens in the prompt", "coverage"]
    cells = [
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
    ]
    if isinstance(seen, SeenVideo):
        columns.insert(4, f"per {seen.unit}")
        for cell, read in zip(cells, (read for row in rows for read in row), strict=True):
            cell.insert(4, tokens_per_frame(read))
    print_table(columns, cells, left=["question", "answer"])
    print_covered([row[0] for row in rows])
    if isinstance(seen, SeenVideo):
        print(f"{seen.described()}.")


def _read(
    pipe: ImageTextToTextPipeline,
    image: Image.Image | Video,
    question: str,
    options: argparse.Namespace,
    begin: Callable[[str], None],
) -> Sequence[Explanation]:
    """What is read with each budget, and with `--answers` what is answered."""
    from mmtok.apps.answering import ask_with_budgets, explain_inputs, model_inputs

    pruning_options = call_pruning_options(options)
    if options.answers:
        given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
        return ask_with_budgets(pipe, image, question, options.budgets, **given)
    inputs, read = model_inputs(pipe, image, question), []
    for budget in options.budgets:
        begin("Selecting")
        read.append(explain_inputs(pipe, inputs, question, budget, **pruning_options))
    return read


def _figure(seen: SeenImage | SeenVideo, rows: Sequence[Sequence[Explanation]], options: argparse.Namespace) -> Figure:
    from mmtok.apps.figure import comparison_figure
    from mmtok.apps.seen_video import SeenVideo
    from mmtok.apps.video_figure import video_figure

    if isinstance(seen, SeenVideo):
        title = f"{options.image.name}: {seen.described()}"
        return video_figure(seen, rows, title=title, color_by=options.color_by)
    panels = [[_panel(seen, read, options.color_by) for read in row] for row in rows]
    return comparison_figure(panels, row_titles=options.questions, color_by=options.color_by)


def _panel(seen: SeenImage, read: Explanation, color_by: ColorBy) -> Panel:
    from mmtok.apps.answer import Answer
    from mmtok.apps.figure import Panel
    from mmtok.apps.overlay import overlay
    from mmtok.apps.wording import counted

    title = counted(read.vision_tokens, "token")
    if isinstance(read, Answer):
        title += f" → {read.answer or '(nothing)'}"
    drawn = overlay(seen, None if read.budget is None else read.selection, color_by=color_by)
    return Panel(drawn, title, f"prompt of {counted(read.prompt_tokens, 'token')} · coverage {read.coverage:.1%}")
