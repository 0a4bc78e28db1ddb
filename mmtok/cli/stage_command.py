"""`hub_upload.py stage`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmtok.publish.stage import StagedModel, stage

from .knob_options import add_knob_options, add_word_options, knobs_of, word_lists_of

_DESCRIPTION = """\
Makes the folder of a complete model repository of a stock LLaVA or LLaVA-NeXT checkpoint: the published code,
config.json, tokenizer, processor, weights (hard links where the file system can) and a model card. At the end the
folder is loaded in a clean process and compared with its base: every tensor, the ids of the tokenizer, and the logits
with the full budget. A stage that fails leaves nothing behind."""


def add_command(commands: Any) -> None:
    """Adds the command to the subparsers of `hub_upload.py`."""
    parser = commands.add_parser(
        "stage",
        help="make a model repository of a stock checkpoint, on this machine",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: hub_upload.py stage llava-hf/llava-1.5-7b-hf ./llava-1.5-7b-mmtok --vision-token-budget 64",
    )
    parser.add_argument("base", metavar="BASE", help="folder or Hub id of the stock checkpoint")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make; new or empty")
    parser.add_argument("--revision", help="branch, tag or commit of a BASE on the Hub")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a staged folder")
    parser.add_argument("--copy-weights", action="store_true", help="copy the weights instead of linking them")
    parser.add_argument("--no-check", action="store_true", help="leave out the load in a clean process")
    add_knob_options(parser)
    add_word_options(parser)
    parser.set_defaults(run=run)


def stage_as_told(arguments: argparse.Namespace) -> StagedModel:
    """Stages what the command line says."""
    return stage(
        arguments.base,
        arguments.out,
        knobs=knobs_of(arguments, arguments.base, arguments.revision),
        revision=arguments.revision,
        link_weights=not arguments.copy_weights,
        overwrite=arguments.overwrite,
        check=not arguments.no_check,
        **word_lists_of(arguments),
    )


def run(arguments: argparse.Namespace) -> None:
    """Stages, and says what was made."""
    staged = stage_as_told(arguments)
    print(f"{staged.path}: {staged.model_class}, vision_token_budget {staged.vision_token_budget}")
    print(f"{len(staged.files)} files, weights {'linked' if staged.linked else 'copied'}")
    if staged.report:
        print(
            "Checked in a clean process: {tensors_compared} tensors and {prompts_compared} prompts equal the base's, "
            "logits with the full budget too ({dtype}); the configured budget keeps {kept_tokens} of {prompt_tokens} "
            "prompt tokens of a sample.".format(**staged.report)
        )
    else:
        print("Not checked.")
