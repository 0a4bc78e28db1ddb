"""`mmtok generate`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .arguments import (
    add_batch_size,
    add_budget,
    add_call_options,
    add_frames,
    add_image_memory,
    add_length,
    add_model,
    add_parser,
    base_of,
    call_pruning_options,
)
from .output import about_the_model, explain, nothing_pruned, print_json

_DESCRIPTION = """\
Answers a file of questions about images and videos: JSON lines, a JSON array or CSV, with these fields:

  {"image": "photos/1.jpg", "question": "Is there a dog?"}

`image`, or in its place `video`, is relative to the file; further fields are copied. The output has a line of JSON for
each question, in the same order, with `answer`, or with `error` where an image cannot be read or the model refuses the
question. Interrupted, the same command continues where it was."""


def add_generate(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = (
        "accelerate launch --num_processes 2 -m mmtok generate --model ./llava-mmtok --questions questions.jsonl "
        "--output answers.jsonl --budget 64"
    )
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    parser.add_argument("--questions", required=True, type=Path, metavar="FILE", help="JSON lines, JSON or CSV")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the answers, JSON lines")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where the images are (default: with the file)")
    add_budget(parser)
    add_batch_size(parser, 8)
    add_length(parser, 64)
    add_frames(parser)
    add_image_memory(parser)
    add_model(parser, required=True)
    add_call_options(parser)
    parser.set_defaults(run=generate)


def generate(options: argparse.Namespace) -> int:
    """Generates; 1 where a line has an error."""
    from accelerate import PartialState

    from mmtok.apps.answering import counted
    from mmtok.apps.batch_generate import BatchSettings, generate_file
    from mmtok.videos import FRAMES

    settings = BatchSettings(
        model=str(base_of(options.model)),
        input=options.questions,
        output=options.output,
        budget=options.budget,
        pruning_options=call_pruning_options(options),
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        dtype=options.dtype,
        revision=options.revision,
        device=options.device,
        image_memory=options.image_memory * 2**20,
        images=options.images,
        frames=options.frames or FRAMES,
    )
    result = generate_file(settings, progress=not options.quiet)
    if not PartialState().is_main_process:
        return 1 if result.errors else 0
    if options.json:
        print_json({**asdict(result), "output": str(options.output)})
    else:
        print(f"{counted(result.lines, 'line')} in {options.output}, {result.resumed} of them from an earlier run.")
        if result.errors:
            have = "has" if result.errors == 1 else "have"
            print(f"{counted(result.errors, 'line')} {have} `error` in place of `answer`.")
    unpruned = result.unpruned and options.budget is not None
    explain(
        options,
        f"Of {counted(result.cut_off, 'image')} the model sees the middle square alone." if result.cut_off else "",
        f"{counted(result.unpruned, 'line')}: {nothing_pruned([options.budget])}" if unpruned else "",
        about_the_model(options.model),
    )
    return 1 if result.errors else 0
