"""`mmtok ask`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

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

_DESCRIPTION = """\
Answers questions about an image or video, each with every budget, and says how long a prompt the language model read,
how much of the full coverage the kept tokens have, and how long it took."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = 'mmtok ask --model ./llava-mmtok photo.jpg "Is there a dog?" --budgets all 64 16'
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    add_question_options(parser, ["all", "16", "4"], 64)
    add_video_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Asks and prints."""
    from mmtok.apps.answering import ask_with_budgets, warm_up
    from mmtok.apps.progress import steps
    from mmtok.images import cut_off
    from mmtok.videos import Video

    image, pruning_options = asked_about(options), call_pruning_options(options)
    answers = []
    with steps(2 + len(options.questions) * len(options.budgets)) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
            begin("Warming up")
            warm_up(pipe, image, options.questions[0])
            lost = "" if isinstance(image, Video) else cut_off(image.size, pipe.processor.image_processor)
            for question in options.questions:
                given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
                answers += ask_with_budgets(pipe, image, question, options.budgets, **given)
    if lost:
        print(lost, file=sys.stderr)
    if options.json:
        print_json([answer.as_json() for answer in answers])
        return
    print_table(
        ["question", "budget", "answer", "tokens in the prompt", "coverage", "time"],
        [
            [
                answer.question,
                budget_name(answer.budget),
                answer.answer,
                f"{answer.prompt_tokens} of {answer.full_prompt_tokens}",
                f"{answer.coverage:.1%}",
                f"{1000 * answer.seconds:.0f} ms",
            ]
            for answer in answers
        ],
        left=["question", "answer"],
    )
    print_covered(answers)
