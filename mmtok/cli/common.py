"""What several commands share: the model to use, budgets, pictures, tables and JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mmtok.cli.knob_options import add_call_options, knobs_of

from .values import at_least, budget, device, question

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

EMBEDDED = "tiny"


def add_parser(commands: Any, name: str, help: str, description: str, example: str) -> argparse.ArgumentParser:
    """The parser of a command, with an example at the end of its help."""
    return commands.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example: {example}",
    )


def add_question_options(parser: argparse.ArgumentParser, budgets: Sequence[str], max_new_tokens: int) -> None:
    """Picture, questions, budgets and knobs; length of the answers; model."""
    parser.add_argument("picture", metavar="PICTURE", type=Path, help="a file, such as photo.png or photo.jpg")
    parser.add_argument("questions", metavar="QUESTION", nargs="+", type=question, help="in quotes")
    add_budgets_option(parser, budgets)
    add_length_option(parser, max_new_tokens)
    add_model_options(parser)
    add_call_options(parser)


def add_length_option(parser: argparse.ArgumentParser, default: int) -> None:
    """`--max-new-tokens`."""
    help = "of an answer at most (default: %(default)s)"
    parser.add_argument("--max-new-tokens", metavar="N", type=at_least(1), default=default, help=help)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--revision`, `--dtype`, `--device` and `--json`."""
    parser.add_argument(
        "--model",
        default=EMBEDDED,
        help="staged folder or Hub repository; tiny is the embedded model, which sees coloured shapes "
        "(default: %(default)s)",
    )
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


def call_knobs(options: argparse.Namespace) -> dict[str, Any]:
    """The knobs for calls of `--model`."""
    from mmtok.tiny import checkpoint_path

    model = checkpoint_path() if options.model == EMBEDDED else options.model
    return knobs_of(options, model, options.revision)


@contextmanager
def opened_pipeline(options: argparse.Namespace) -> Iterator[ImageTextToTextPipeline]:
    """The pipeline of `--model`; the embedded model is staged for the time of the command."""
    from mmtok.apps.answering import load_pipeline
    from mmtok.publish import stage
    from mmtok.tiny import checkpoint_path

    given = {name: getattr(options, name) for name in ("revision", "dtype", "device")}
    settings = {name: value for name, value in given.items() if value is not None}
    with TemporaryDirectory(prefix="mmtok-") as scratch:
        model: str | Path = options.model
        if options.model == EMBEDDED:
            model = stage(checkpoint_path(), Path(scratch) / "mmtok-tiny", check=False).path
        yield load_pipeline(model, **settings)


def budget_name(value: int | float | None) -> str:
    """A budget as it is written on a command line."""
    return "all" if value is None else str(value)


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()) -> None:
    """A table on standard output.

    Args:
        columns: their names.
        rows: as many texts each as there are columns.
        left: names of the columns that hold text; the others are aligned on the right.
    """
    table = Table(header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in left)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False).print(table)
