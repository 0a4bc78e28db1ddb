"""What commands print: tables, JSON, explanations below them, and progress on standard error."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .arguments import Budget

if TYPE_CHECKING:
    from mmtok.apps.answering import Explanation
    from mmtok.apps.timing import Timing


def budget_name(value: Budget) -> str:
    """A budget as it is written on a command line."""
    return "all" if value is None else str(value)


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Mapping[str, Callable[[Any], str]], items: Iterable[Any], *, left: Sequence[str] = ()) -> None:
    """A table on standard output, a row for each item; the columns `left` hold text and are aligned on the left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in left)
    for item in items:
        table.add_row(*(text(item) for text in columns.values()))
    Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False).print(table)


def explain(options: argparse.Namespace, *notes: str) -> None:
    """What a result means, below it; on standard error beside JSON, and not at all with `--quiet`."""
    if not options.quiet:
        for note in filter(None, notes):
            print(note, file=sys.stderr if options.json else sys.stdout)


def unpruned(read: Iterable[Explanation | Timing]) -> str:
    """A sentence on the budgets with which nothing was pruned; "" if there is none."""
    return nothing_pruned(each.budget for each in read if each.prompt_tokens == each.full_prompt_tokens)


def nothing_pruned(budgets: Iterable[Budget | str]) -> str:
    """A sentence on budgets that every vision token fits into; "" if there is none."""
    names = ", ".join(dict.fromkeys(str(each) for each in budgets if each is not None))
    return names and f"Budget {names}: every vision token is kept, nothing was pruned. Give a smaller one."


def about_the_model(model: str) -> str:
    """What to know of an embedded model's answers; "" for another model."""
    from mmtok.apps.demo import KNOWS

    return KNOWS.get(model, "")


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Leaves out the progress bars of transformers while a model is loaded."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def steps(total: int, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows a bar of `total` steps with the time; without a terminal, one line for each new kind of step.

    With `quiet` it shows nothing.

    Yields:
        What to call with the name of a step when it begins.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    begun = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        last = ""

        def begin(name: str) -> None:
            nonlocal begun, last
            progress.update(task, description=name, completed=begun)
            if not console.is_terminal and name != last:
                console.print(f"{name} ...", soft_wrap=True, highlight=False)
            begun, last = begun + 1, name

        yield begin
