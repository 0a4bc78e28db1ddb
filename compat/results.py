"""The rows of compat/results.json and compat/suite.json: how they are read, kept and judged.

`python -m compat.results` writes the releases that passed into the facts that cards name.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# What cards say of the tested releases.
TESTED = ROOT / "mmtok" / "publish" / "facts" / "tested_versions.json"
# The group of a whole folder: tests of what a release's stock classes cannot do ask them, and are skipped there.
HOST = "all of tests/host"
# How the reason of a skipped test begins that the release's stock class fails too.
STOCK_FAILS = "stock itself fails"


def load(name: str | Path) -> dict[str, Any]:
    """The rows of a file of this folder, or of a path."""
    path = name if isinstance(name, Path) else HERE / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def add(name: str, row: str, found: dict[str, Any]) -> None:
    """Puts what was found into a row of a file of this folder, beside what else the row has."""
    rows = load(name)
    rows[row] = {**rows.get(row, {}), **found}
    (HERE / f"{name}.json").write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(report: Path) -> dict[str, Any]:
    """Counts a report of pytest in the form of JUnit."""
    told: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case, ended, message in endings(report):
        told[ended].append(f"{case.get('name', '')}: {message[:200]}")
    return {**told, "passed": len(told["passed"])}


def endings(report: Path) -> Iterator[tuple[ElementTree.Element, str, str]]:
    """Each test of such a report, how it ended, and the message of a failure or of why it was skipped."""
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [*case.findall("failure"), *case.findall("error")]
        skip = case.find("skipped")
        if bad:
            yield case, "failed", bad[0].get("message", "").splitlines()[0]
        else:
            yield case, "passed" if skip is None else "skipped", "" if skip is None else skip.get("message", "")


def commit() -> str:
    """The commit that is checked out.

    Raises:
        ValueError: files differ from it, other than the results.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    if changed := git("status", "--porcelain", "--", ".", ":!compat/suite.json"):
        raise ValueError(f"A row of {HOST} names the commit that was tested: commit these files first.\n{changed}")
    return git("rev-parse", "--short=10", "HEAD")


def failures(row: dict[str, Any]) -> list[str]:
    """Tests that did not pass and that stock itself can pass; a group without one test is a failure too.

    Skipped tests of all of tests/host are none: other releases and platforms have what they need.
    """
    found = [
        f"{group}: {name}"
        for group, seen in row.items()
        for name in (*seen["failed"], *(seen["skipped"] if group != HOST else ()))
        if STOCK_FAILS not in name
    ]
    return found + [f"{group}: no test ran" for group, seen in row.items() if not seen["passed"] and not seen["failed"]]


def problems(row: dict[str, Any], rows: dict[str, Any], folder: str | None = None) -> list[str]:
    """What is not as it has to be under one release, of one staged folder or of all."""
    found = []
    for name, seen in row["folders"].items() if folder is None else [(folder, row["folders"][folder])]:
        if "error" in seen:
            found.append(f"{name}: {seen['error']}")
            continue
        loading = {**seen["loading"], **{f"after saving, {what}": keys for what, keys in seen["loading_again"].items()}}
        told = [*(f"{what} {keys}" for what, keys in loading.items()), *seen["our_deprecations"]]
        checks = ("same_again", "pipeline", "full_budget_is_stock", "refused_without_trust")
        told += [f"{check.replace('_', ' ')} is not so" for check in checks if not seen[check]]
        newest = max((each for each in rows.values() if "kept" in each["folders"].get(name, {})), key=release)
        other = newest["folders"][name]
        # Where stock answers otherwise than on the newest release, so does the pruned model.
        alike = seen.get("tokens of stock", other.get("tokens of stock")) == other.get("tokens of stock")
        compared = ("kept", "tokens") if alike else ("kept",)
        told += [f"other {what} than the newest" for what in compared if seen[what] != other[what]]
        found += [f"{name}: {each}" for each in told]
    return found


def release(row: dict[str, Any]) -> tuple[int, ...]:
    """The release of transformers of a row, for sorting."""
    return numbers(row["transformers"])


def numbers(version: str) -> tuple[int, ...]:
    """A version for sorting, builds for one kind of machine (`+cpu`) as the release they are of."""
    return tuple(map(int, version.partition("+")[0].split(".")))


def ordered(rows: Iterable[dict[str, Any]], first: str = "transformers") -> list[dict[str, Any]]:
    """The rows by their releases, those of `first` before those of the other."""
    return sorted(rows, key=lambda row: (numbers(row[first]), numbers(row["transformers"]), numbers(row["torch"])))


def by_release(rows: dict[str, Any]) -> dict[str, Any]:
    """The rows of the suite, whose names begin "transformers 5.24.0, torch 2.13.0+cpu, Python 3.11.7"."""
    return dict(sorted(rows.items(), key=lambda row: [numbers(part.split(" ")[1]) for part in row[0].split(", ")]))


def by_transformers(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of each release of transformers."""
    return [list(group) for _, group in groupby(ordered(rows), key=lambda row: str(row["transformers"]))]


def passing_releases(rows: dict[str, Any]) -> dict[str, str]:
    """The oldest and the newest release of transformers of which no row has a problem."""
    bad = {release(row) for row in rows.values() if problems(row, rows)}
    good = sorted({release(row) for row in rows.values()} - bad)
    return {"oldest": ".".join(map(str, good[0])), "newest": ".".join(map(str, good[-1]))}


if __name__ == "__main__":
    TESTED.write_text(json.dumps(passing_releases(load("results")), indent=2) + "\n", encoding="utf-8")
