"""Puts the tables of fidelity.json and later-rules.json into docs/fidelity.md: `python -m benchmarks.fidelity_page`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reference import text_to_tokenize

RESULTS = Path(__file__).parent / "results"
# Questions of which other words are covered than by the reference: the words, and why.
DECIDED = {
    "What's the man wearing?": ("man wearing", "a contraction is one word, here a stop word"),
    "Who's she?": ("Who's she?", "the same; only stop words are left, so that the question is covered as it stands"),
    "Is the dog's collar red?": ("dog collar red", "the same; of a possessive the word itself"),
    "Which animal?\nA. cat\nB. dog": ("animal A cat B dog", "letters of options are alike; A is a stop word there"),
    "Is the WHO logo on it?": ("WHO logo on", "words in capitals are names"),
    "Was ist an der Wand?": ("Was ist an der Wand", "the stop words are English"),
    "Is it 1.5 m high?": ("1.5 m high", "decimals are whole"),
    "हाथी का रंग?": ("हाथी का रंग", "marks belong to their letter"),
    "Answer the question using a single word or phrase.": (
        "using single word phrase",
        "an instruction alone is covered; the reference has no text then",
    ),
    "What is it made of?\nAnswer the question\nusing a single word or phrase.": (
        "made of",
        "white space in an instruction may differ",
    ),
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "fidelity.md"


def agreement() -> str:
    """How many prompts have the reference's picks in every crop."""
    header = ["images", "kept of each crop", "prompts", "preset `paper`: identical", "default: identical"]
    rows = [f"| {' | '.join(header)} | default: picks in common |", "| --- " + "| ---: " * 5 + "|"]
    for name, case in _load("fidelity")["cases"].items():
        paper, default = case["paper"], case["default"]
        rows.append(
            f"| {name} | {case['budget']} | {case['prompts']} | {paper['identical']} | {default['identical']} | "
            f"{100 * default['overlap']:.1f} % |"
        )
    return "\n".join(rows)


def sizes() -> str:
    """The default's picks in common with the reference, by the size of an image whose tiles are padded."""
    case = _load("fidelity")["cases"]["LLaVA-NeXT, tiles with padding"]
    found = case["default_overlap"]
    shares = [f"{100 * each:.1f} %" for each in found.values()]
    return f"| {' | '.join(found)} |\n|{' ---: |' * len(found)}\n| {' | '.join(shares)} |"


def rules(trial: str) -> str:
    """What every rule keeps, and by how much more than greedy maximisation of the same rows."""
    found = _load("later-rules")["trials"][trial]["rules"]
    budgets = list(found[0]["retention"])
    rows = [f"| rows | rule | {' | '.join(budgets)} |", f"| --- | --- |{' ---: |' * len(budgets)}"]
    for row in found:
        cells = [
            f"{100 * row['retention'][budget]['estimate']:.1f}"
            if row["rule"] == "greedy"
            else f"{100 * row['lead'][budget]['estimate']:+.1f} ({_bounds(row['lead'][budget])})"
            for budget in budgets
        ]
        rows.append(f"| {row['settings']} | {row['rule']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def decided() -> str:
    """What differs from the reference's words by decision."""
    rows = ["| question | reference | here | reason |", "| --- | --- | --- | --- |"]
    for question, (words, reason) in DECIDED.items():
        shown = question.replace("\n", " ⏎ ")
        theirs = text_to_tokenize(question)
        rows.append(f"| {shown} | {f'`{theirs}`' if theirs else 'none'} | `{words}` | {reason} |")
    return "\n".join(rows)


def _bounds(lead: dict[str, float]) -> str:
    return f"{100 * lead['low']:+.1f} … {100 * lead['high']:+.1f}"


def _load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


TABLES: dict[str, Callable[[], str]] = {
    "agreement": agreement,
    "sizes": sizes,
    "decided": decided,
    "scenes": lambda: rules("scenes"),
    "fresh crowded": lambda: rules("fresh crowded"),
    "merging": lambda: rules("merging"),
    "five crops": lambda: rules("five crops"),
    "five crops again": lambda: rules("five crops again"),
}


def rendered(page: str) -> str:
    """The page with every table made anew from the results; a table that is not known is a KeyError."""
    return re.sub(
        r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)",
        lambda match: match[1] + TABLES[match[2]]() + "\n" + match[3],
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
