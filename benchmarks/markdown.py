"""Tables in Markdown, and their place in a page between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, figures to the right."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))


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
