"""The figures of docs/choose-a-budget.md and docs/reports/budgets.md are those of committed results files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "choose-a-budget.md"
PAGE = ROOT / "docs" / "reports" / "budgets.md"
RESULTS = ROOT / "benchmarks" / "results"
SCENES = ("random", "what", "count")


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def paper(model: str) -> Iterator[list[str]]:
    facts = json.loads((ROOT / "mmtok" / "publish" / "facts" / "paper_results.json").read_text(encoding="utf-8"))
    for table in facts["models"][f"llava-hf/{model}-hf"]:
        places = [table["columns"].index(name) + 1 for name in ("POPE", "GQA", "TextVQA", "average")]
        for row in table["rows"]:
            yield [str(row[0]), *(str(row[place]) for place in places)]


def scenes() -> Iterator[list[str]]:
    cells = read("quality-scenes")["cells"]

    def values(method: str, budget: int | None) -> list[float]:
        [cell] = [each for each in cells if each["method"] == method and each["budget"] == budget]
        metrics = cell["metrics"]
        return [100 * metrics[task]["f1" if task == "random" else "accuracy"] for task in SCENES]

    def mean(found: list[float]) -> str:
        return f"{sum(found) / len(found):.1f}"

    every = values("all", None)
    yield ["all 144", *(f"{value:.1f}" for value in every), mean(every), ""]
    for budget in (64, 32, 16, 8, 4, 2):
        found = values("MMTok", budget)
        yield [str(budget), *(f"{value:.1f}" for value in found), mean(found), mean(values("uniform", budget))]


def targets() -> Iterator[list[str]]:
    for cell in read("quality-crowded")["cells"]:
        if cell["method"].startswith("target "):
            kept = cell["retention"]["mean"]["estimate"]
            yield [cell["method"].split()[1], f"{cell['vision_tokens']:.1f}", f"{100 * kept:.1f}"]


TABLES: dict[str, Callable[[], Iterator[list[str]]]] = {
    "llava-1.5-7b": lambda: paper("llava-1.5-7b"),
    "llava-next-7b": lambda: paper("llava-v1.6-vicuna-7b"),
    "scenes": scenes,
    "targets": targets,
}


def shown(name: str) -> list[list[str]]:
    """The rows of a table of the page, without its heading."""
    found = re.search(rf"<!-- figures: {re.escape(name)} -->\n(.*?)<!-- end -->", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].strip().splitlines()[2:]]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_its_results(name: str) -> None:
    assert shown(name) == list(TABLES[name]())


def test_every_table_is_held() -> None:
    assert set(re.findall(r"<!-- figures: (\S+) -->", PAGE.read_text("utf-8"))) == set(TABLES)


def test_the_guide_has_the_same_figures() -> None:
    [case], guide = read("prefill-cpu-full")["measured"], " ".join(GUIDE.read_text("utf-8").split())
    assert f"{case['model']} comes {case['mmtok_times_faster']['1']:.1f} times sooner with 64 of 576" in guide
    first, other = ({row[0]: row[-1] for row in paper(name)} for name in ("llava-1.5-7b", "llava-v1.6-vicuna-7b"))
    kept = f"keeps {first['192']} % of its scores with 192 tokens, {first['64']} % with 64 and {first['16']} % with 16,"
    assert f"{kept} and LLaVA-NeXT-7B {other['160']} % with 32 per crop" in guide
