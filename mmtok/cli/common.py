"""What several commands share: the model to use, budgets and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .pruning_arguments import add_call_options, pruning_options_of
from .values import at_least, budget, device, question

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

EMBEDDED = "tiny"


def add_parser(commands: Any, name: str, help: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The parser of a command, with examples, one a line, at the end of its help."""
    return commands.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n  ".join(["examples:" if "\n" in examples else "example:", *examples.splitlines()]),
    )


def add_question_options(parser: argparse.ArgumentParser, budgets: Sequence[str], max_new_tokens: int) -> None:
    """Image or video, questions, budgets and options; length of the answers; model."""
    image_help = "a file, such as photo.png or photo.jpg; with --video a video"
    parser.add_argument("image", metavar="IMAGE", type=Path, help=image_help)
    parser.add_argument("questions", metavar="QUESTION", nargs="+", type=question, help="in quotes")
    add_budgets_option(parser, budgets)
    add_length_option(parser, max_new_tokens)
    add_model_options(parser)
    add_call_options(parser)


def add_length_option(parser: argparse.ArgumentParser, default: int) -> None:
    """`--max-new-tokens`."""
    help = "of an answer at most (default: %(default)s)"
    parser.add_argument("--max-new-tokens", metavar="N", type=at_least(1), default=default, help=help)


def add_image_memory_option(parser: argparse.ArgumentParser) -> None:
    """`--image-memory`."""
    parser.add_argument(
        "--image-memory",
        metavar="MIB",
        type=at_least(0),
        default=1024,
        help="memory for images that are kept encoded for further questions about them (default: %(default)s)",
    )


def add_model_options(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """`--model`, `--revision`, `--dtype`, `--device` and `--json`.

    Args:
        parser: of the command.
        required: whether the model has to be named; it is the embedded one otherwise.
    """
    help = "staged folder or Hub repository; tiny is the embedded model, which knows 58 everyday objects"
    if required:
        parser.add_argument("--model", required=True, help=help)
    else:
        parser.add_argument("--model", default=EMBEDDED, help=f"{help} (default: %(default)s)")
    add_loading_options(parser)
    add_json_option(parser)


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """`--revision`, `--dtype` and `--device`."""
    parser.add_argument("--revision", help="branch, tag or commit of a --model on the Hub")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights (default: the model's own)"
    )
    parser.add_argument(
        "--device", type=device, help="such as cuda:0 or cpu (default: the accelerator, if there is one)"
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_budgets_option(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    """`--budgets`."""
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=budget,
        default=[budget(text) for text in default],
        metavar="N",
        help=f"vision tokens kept per crop: numbers, shares such as 0.25, or all (default: {' '.join(default)})",
    )


def base_of(base: str) -> str | Path:
    """A BASE as it is written on a command line: the folder of the embedded checkpoint for its name."""
    from mmtok.tiny import checkpoint_path

    return checkpoint_path() if base == EMBEDDED else base


def call_pruning_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options for calls of `--model`."""
    return pruning_options_of(options, base_of(options.model), options.revision)


@contextmanager
def staged_model(model: str) -> Iterator[str | Path]:
    """What `--model` loads; the embedded model is staged for the time of the command."""
    from mmtok.publish import stage

    with TemporaryDirectory(prefix="mmtok-") as scratch:
        yield stage(base_of(model), Path(scratch) / "mmtok-tiny", check=False).path if model == EMBEDDED else model


@contextmanager
def opened_pipeline(options: argparse.Namespace) -> Iterator[ImageTextToTextPipeline]:
    """The pipeline of `--model`."""
    from mmtok.apps.answering import load_pipeline

    given = {name: getattr(options, name) for name in ("revision", "dtype", "device")}
    with staged_model(options.model) as model:
        yield load_pipeline(model, **{name: value for name, value in given.items() if value is not None})


def budget_name(value: int | float | None) -> str:
    """A budget as it is written on a command line."""
    return "all" if value is None else str(value)


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
