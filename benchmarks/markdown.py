"""Tables of a page in Markdown, made from results/*.json.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NOT_MEASURED = "not measured"


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def measured(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, figures to the right."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))


def ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(items: int, tokens: int, budget: int) -> str:
    return f"{items} x ({tokens:,} → {budget})" if items > 1 else f"{tokens:,} → {budget}"


def made_on(results: dict[str, Any]) -> str:
    """One line on machine, versions and command."""
    where = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    device = f", {where['device']}" if where["device"] else ""
    return (
        f"`{results['command']}` on {where['processor']}, {where['cores']} cores, {where['threads']} threads{device} "
        f"(load average {where['load_average']} at the start), {where['date']}; {versions}."
    )


def with_tables(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The page with every table made anew.

    Raises:
        ValueError: a table that is not known, or one that is missing.
    """
    found = re.findall(r"<!-- table: (.*?) -->", page)
    if sorted(found) != sorted(tables):
        raise ValueError(f"The page has the tables {sorted(found)}, the results those of {sorted(tables)}.")
    return re.sub(
        r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)",
        lambda match: match[1] + tables[match[2]]() + "\n" + match[3],
        page,
        flags=re.DOTALL,
    )
