"""`mmtok stage`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .common import add_json_option, add_parser, base_of, print_json
from .pruning_arguments import add_pruning_arguments, pruning_options_of
from .pushing import add_check_options, check_of, tidy_end

if TYPE_CHECKING:
    from mmtok.publish import StagedModel

_DESCRIPTION = """\
Makes the folder of a complete model repository of a stock LLaVA or LLaVA-NeXT checkpoint: the published code,
config.json, tokenizer, processor, weights (hard links where the file system can) and a model card. At the end the
folder is loaded in a clean process and compared with its base: ids, chats and pixels, names and shapes of every tensor,
and the logits with the full budget through the first layers of the language model, bit for bit (--check full: through
all of them). A stage that fails or is interrupted leaves OUT as it was."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = "mmtok stage llava-hf/llava-1.5-7b-hf ./llava-1.5-7b-mmtok --vision-token-budget 64"
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    parser.add_argument(
        "base", metavar="BASE", help="folder or Hub id of the stock checkpoint; tiny is the embedded one"
    )
    parser.add_argument("out", metavar="OUT", help="the folder to make; new or empty")
    parser.add_argument("--revision", help="branch, tag or commit of a BASE on the Hub")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a staged folder")
    parser.add_argument("--copy-weights", action="store_true", help="copy the weights instead of linking them")
    add_check_options(parser)
    add_json_option(parser)
    add_pruning_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Stages and prints a report."""
    from mmtok.publish import Recipe, stage

    base = base_of(options.base)
    recipe = Recipe(
        options=pruning_options_of(options, base, options.revision),
        base_revision=options.revision,
    )
    placing = {"link_weights": not options.copy_weights, "overwrite": options.overwrite}
    with tidy_end():
        staged = stage(base, options.out, recipe, check=check_of(options), **placing)
    if options.json:
        print_json(asdict(staged))
    else:
        print(_described(staged))


def _described(staged: StagedModel) -> str:
    checked = "Not checked."
    if staged.report:
        checked = (
            "Checked in a clean process: names and shapes of {tensors_compared} tensors and {prompts_compared} prompts "
            "equal the base's, logits with the full budget too (bit for bit, {layers} layers of the language model, "
            "{dtype}); the configured budget keeps {kept_tokens} of {prompt_tokens} prompt tokens of a sample."
        ).format(**staged.report)
    budget = "all" if staged.vision_token_budget is None else staged.vision_token_budget
    return (
        f"{staged.path}: {staged.model_class}, vision_token_budget {budget}\n"
        f"{len(staged.files)} files, weights {'linked' if staged.linked else 'copied'}\n{checked}"
    )
