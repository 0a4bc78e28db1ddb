"""Writes docs/reports from benchmarks/results: `python benchmarks/report.py`, or with names of pages.

A page is the Jinja template benchmarks/pages/NAME.md: prose by hand, in which every figure is read from a results file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from compat import results as releases  # noqa: E402

RESULTS, TEMPLATES, PAGES = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "pages", ROOT / "docs" / "reports"
# Functions of compat/results.py that the page on releases uses.
RELEASE_FUNCTIONS = ("by_release", "by_transformers", "ordered", "passing_releases", "problems")
# Of the tables, in their order.
METHODS = ("MMTok", "text rows", "vision rows", "DivPrune", "CDPruner", "VisionZip", "FastV", "uniform", "random")
Results = Mapping[str, Any]


def load(name: str) -> dict[str, Any]:
    """A results file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, figures to the right."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))


def ms(value: float) -> str:
    """Milliseconds with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(case: Results) -> str:
    """Units, tokens and budget of a selection."""
    tokens = f"{case['tokens']:,} → {case['budget']}"
    return f"{case['items']} x ({tokens})" if case["items"] > 1 else tokens


def percent(share: float | Results) -> str:
    """A share, or the estimate of an interval, in percent."""
    return f"{100 * (share['estimate'] if isinstance(share, Mapping) else share):.1f}"


def interval(found: Results) -> str:
    """An estimate with its interval, in percent."""
    return f"{percent(found)} [{percent(found['low'])}, {percent(found['high'])}]"


def points(lead: Results) -> str:
    """A difference with its interval, in points."""
    return f"{100 * lead['estimate']:+.1f} [{100 * lead['low']:+.1f}, {100 * lead['high']:+.1f}]"


def behind(lead: Results) -> Results:
    """The same difference seen from the other side."""
    return {"estimate": -lead["estimate"], "low": -lead["high"], "high": -lead["low"]}


def versions(results: Results) -> str:
    """Date and versions of a measurement."""
    where = results["machine"]
    return f"{where['date']}; {', '.join(f'{name} {number}' for name, number in where['versions'].items())}"


def made_on(results: Results) -> str:
    """Command, machine and date of a measurement; the results file has the versions."""
    where = results["machine"]
    device = f", {where['device']}" if where["device"] else ""
    cores = f"{where['cores']} cores, {where['threads']} thread{'s' * (where['threads'] > 1)}"
    return f"`{results['command']}` on {where['processor']}, {cores}{device}, {where['date']}."


def one(rows: Iterable[Results], **fields: Any) -> Results:
    """The one row with these fields."""
    [found] = [row for row in rows if all(row[name] == value for name, value in fields.items())]
    return found


def right(results: Results, method: str, budget: int | None, *tasks: str) -> float:
    """Accuracy in a task, or the mean over several, in percent."""
    metrics = one(results["cells"], method=method, budget=budget)["metrics"]
    return 100 * sum(metrics[task]["accuracy"] for task in tasks) / len(tasks)


def mean(results: Results, method: str, budget: int) -> Results:
    """The score kept, mean over the tasks, with its interval."""
    return one(results["cells"], method=method, budget=budget)["retention"]["mean"]


def each(rows: Iterable[Any], *path: str) -> list[Any]:
    """The value at the end of a path of names in every row."""
    return [reduce(getitem, path, row) for row in rows]


def with_best(name: str, values: Mapping[str, Mapping[int, float]], more: Mapping[str, Sequence[str]]) -> str:
    """A table of shares by method and budget, the largest of every budget in bold, and further columns of texts."""
    budgets = sorted(next(iter(values.values())), reverse=True)
    best = {budget: max(round(row[budget], 3) for row in values.values()) for budget in budgets}

    def cell(value: float, budget: int) -> str:
        return f"**{percent(value)}**" if round(value, 3) == best[budget] else percent(value)

    rows = [
        [method, *(cell(row[budget], budget) for budget in budgets), *texts]
        for (method, row), *texts in zip(values.items(), *more.values(), strict=True)
    ]
    return table([name, *map(str, budgets), *more], rows)


def retention(results: Results, methods: Sequence[str]) -> str:
    """The score kept by method and budget, and over the small budgets its mean and MMTok's lead."""
    values = {
        method: {
            cell["budget"]: cell["retention"]["mean"]["estimate"]
            for cell in results["cells"]
            if cell["method"] == method
        }
        for method in methods
    }
    compared = [one(results["compared"], method=method) for method in methods]
    more = {
        f"mean of {', '.join(map(str, results['small_budgets']))}": [interval(row["retention"]) for row in compared],
        "MMTok's lead": [points(row["reference_lead"]) if row["method"] != "MMTok" else "" for row in compared],
    }
    return with_best("kept, %", values, more)


def environment() -> Environment:
    """What templates can use."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own = (ms, size, percent, interval, points, behind, versions, made_on)
    made.filters |= {function.__name__: function for function in own}
    made.globals |= {function.__name__: function for function in (load, one, right, mean, each, retention)}
    made.globals["methods"] = METHODS
    made.globals["measured"] = lambda name: (RESULTS / f"{name}.json").exists()
    made.globals |= {"compat": releases.load, **{name: getattr(releases, name) for name in RELEASE_FUNCTIONS}}
    return made


def rendered(name: str) -> str:
    """A page; a figure that no results file has is an UndefinedError or a KeyError."""
    page = environment().get_template(f"{name}.md").render()
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" +\n", "\n", page))  # macros and blocks leave lines behind


def main() -> None:
    """The command."""
    known = sorted(path.stem for path in TEMPLATES.glob("*.md"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join(known)}")
    for name in parser.parse_args().pages or known:
        (PAGES / f"{name}.md").write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
