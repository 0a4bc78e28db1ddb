"""Tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmtok.apps.answering import Explanation


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()) -> None:
    """A table on standard output.

    Args:
        columns: their names.
        rows: as many texts each as there are columns.
        left: names of the columns that hold text; the others are aligned on the right.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in left)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False).print(table)


def print_covered(read: Sequence[Explanation]) -> None:
    """Which words of each question the kept tokens have to cover."""
    for question, words in dict.fromkeys((each.question, each.words) for each in read):
        print(f"Covered words of {question!r}: {words}")
