"""Progress of work that takes more than a moment, on standard error, so that results can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def steps(total: int, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows a bar of `total` steps with the time; without a terminal, one line for each new kind of step.

    With `quiet` it shows nothing.

    Yields:
        What to call with the name of a step when it begins.
    """
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
