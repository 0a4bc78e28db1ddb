"""`mmtok bench`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .common import (
    EMBEDDED,
    add_budgets_option,
    add_model_options,
    add_parser,
    budget_name,
    call_pruning_options,
    opened_pipeline,
    print_json,
)
from .pruning_arguments import add_call_options
from .tables import print_table
from .values import at_least, question

_DESCRIPTION = """\
Times a model on this machine with several budgets: time to first token (vision tower, projector, selection, prefill)
and total time of a longer answer. Medians over rounds in which every budget takes its turn, after one round that warms
up. The image is processed once, before the clock starts."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = 'mmtok bench --model ./llava-mmtok photo.jpg "Is there a dog?" --budgets all 192 64 16'
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a file, such as photo.png or photo.jpg")
    parser.add_argument("question", metavar="QUESTION", type=question, help="in quotes")
    add_budgets_option(parser, ["all", "16", "4"])
    parser.add_argument(
        "--new-tokens", metavar="N", type=at_least(2), default=16, help="of the longer answer (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", metavar="N", type=at_least(1), default=5, help="rounds that count (default: %(default)s)"
    )
    add_model_options(parser)
    add_call_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Times and prints."""
    from mmtok.apps.demo import TOO_SMALL
    from mmtok.apps.progress import steps
    from mmtok.apps.timing import setting, time_budgets
    from mmtok.images import read_image

    image, pruning_options = read_image(options.image), call_pruning_options(options)
    with steps(2 + options.repeats) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
            timings = time_budgets(
                pipe,
                image,
                options.question,
                options.budgets,
                new_tokens=options.new_tokens,
                repeats=options.repeats,
                begin=begin,
                **pruning_options,
            )
            measured_on = setting(pipe)
    if options.json:
        print_json(
            {"setting": measured_on, "options": pruning_options, "timings": [asdict(timing) for timing in timings]}
        )
        return
    print(", ".join(f"{name} {value}" for name, value in {**measured_on, **pruning_options}.items()))
    print_table(
        ["budget", "tokens in the prompt", "first token", "total", "first token, compared", "total, compared"],
        [
            [
                budget_name(timing.budget),
                str(timing.prompt_tokens),
                f"{1000 * timing.first_token:.1f} ms",
                f"{1000 * timing.total:.1f} ms",
                f"{timings[0].first_token / timing.first_token:.2f} x",
                f"{timings[0].total / timing.total:.2f} x",
            ]
            for timing in timings
        ],
    )
    print(f"Totals are of {options.new_tokens} tokens; compared with the first budget of the table.")
    if options.model == EMBEDDED:
        print(TOO_SMALL)
