"""Runs tests of the repository under the covered releases; writes suite.json, which docs/compat.md shows.

`python compat/suite.py --only 5.1.0` runs them in the environments of those releases that `run.py` makes, and
`--python PATH` in an environment of the caller's. Every row that is done joins suite.json at once. All of
tests/host runs on a committed state only, whose commit the row names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "suite.json"
sys.path[:0] = [str(ROOT)]

from compat import upstream  # noqa: E402
from compat.versions import NAMED, OLDEST, Pair  # noqa: E402

PUBLISHED = "tests/host/test_published.py::test_a_"
# The title of a column and the tests behind it.
GROUPS: dict[str, list[str]] = {
    "parity with stock": ["tests/host/test_stock_parity.py"],
    "publishing": [
        PUBLISHED + "published_model_answers_as_the_staged_folder_with_and_without_the_hub",
        PUBLISHED + "fine_tuned_model_is_pushed_and_loads_again",
    ],
}
# The column of a whole folder. Tests of what a release's stock classes cannot do ask them, and are skipped there.
HOST = "all of tests/host"
FOLDER = "tests/host"
# The column of transformers' own tests, which `upstream.py` runs.
UPSTREAM = "transformers' model tests"
# The same of the tests of generation, whose file `--generation-tests` names.
GENERATION = "transformers' generation tests"
COLUMNS = [*GROUPS, HOST, UPSTREAM, GENERATION]
# How the reason of a skipped test begins that the release's stock class fails too.
STOCK_FAILS = "stock itself fails"
# What the tests need beside torch and transformers.
PACKAGES = (
    *("accelerate", "hypothesis", "jinja2", "parameterized", "peft", "protobuf", "pytest", "pyyaml", "safetensors"),
    *("sentencepiece", "starlette", "tqdm", "uvicorn"),
)

SECTION = """
## Parity and publishing

`compat/suite.py` runs tests of the repository in the same environments, with the packages that the tests need beside;
its results are in `compat/suite.json`, and each row says how many tests passed. transformers 5.20.2 is the newest
release that installs on Python 3.10.

- *Parity with stock* is `tests/host/test_stock_parity.py`, for all five families, with prompts that begin with text and
  with the image, one row and two: `forward` and its loss with labels; `generate` without a cache, with a static cache,
  with chunked prefill, prompt lookup, an assistant model, ids with embeddings, and beams; a second turn from a returned
  cache. With a full budget or none the result is stock's on the same inputs; pruned, it is stock's on the kept tokens.
- *Publishing* is two tests of `tests/host/test_published.py`: both families are staged, pushed to a Hub on loopback
  and loaded from it in clean processes; a fine-tuned model is pushed and loaded again.
- *All of tests/host* is every test of what runs inside transformers, for all five families: `generate` and `forward`,
  `prune` and `custom_generate`, videos, training, offloading, threads, misuse. A test that needs what the release's
  stock class cannot do asks the stock class and is skipped; the reasons are below the table. A row names the commit
  that was tested.
- *transformers' model tests* are those of `ModelTesterMixin` in the release's source distribution, run for the stock
  class and for the pruned class with pruning off, for all five families: a test passes where both end alike.
- *transformers' generation tests* are those of `GenerationTesterMixin`, likewise. The source distribution leaves them
  out: `--generation-tests` takes the file `tests/generation/test_utils.py` of the repository of transformers. A row
  names the release that this file is of where it is another.

"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="releases of transformers to run; without it the named ones")
    parser.add_argument("--python", nargs="*", default=[], help="run these interpreters, which have the packages")
    parser.add_argument("--groups", nargs="*", choices=COLUMNS, help="columns to run")
    parser.add_argument(
        "--generation-tests", type=Path, help="tests/generation/test_utils.py of the release, out of its repository"
    )
    parser.add_argument("--generation-tests-of", help="the release of this file, where it is another")
    given = parser.parse_args(arguments)
    groups = given.groups or [group for group in COLUMNS if group != GENERATION or given.generation_tests]
    if GENERATION in groups and given.generation_tests is None:
        parser.error(f"{GENERATION} need --generation-tests: give tests/generation/test_utils.py of the release.")
    pythons = [Path(path) for path in given.python]
    if not pythons:
        pythons = [made(Pair(release)) for release in given.only or (OLDEST, *NAMED)]
    for group in groups:
        for python in pythons:
            name = versions_of(python)
            with tempfile.TemporaryDirectory() as scratch:
                place = Path(scratch)
                if group in GROUPS:
                    seen = run_tests(python, GROUPS[group], place)
                elif group == HOST:
                    seen = of_commit(python, place)
                else:
                    seen = upstream.compared(python, place, given.generation_tests if group == GENERATION else None)
            if group == GENERATION and given.generation_tests_of:
                seen["tests of"] = given.generation_tests_of
            # Read again: another run may have added its rows meanwhile.
            results = known_results()
            results[name] = {**results.get(name, {}), group: seen}
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            print(f"{name}, {group}: {told(results[name], group)}", flush=True)
    return 1 if any(failures(row) for row in known_results().values()) else 0


def made(pair: Pair) -> Path:
    """The Python of the pair's environment, with the packages of the tests."""
    from compat.run import environment

    python = environment(pair)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def versions_of(python: Path) -> str:
    """What is installed, as the name of a row: "transformers 5.24.0, torch 2.13.0+cpu, Python 3.11.7"."""
    asked = (
        "import platform, torch, transformers as t; print(t.__version__, torch.__version__, platform.python_version())"
    )
    told = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.split()
    return ", ".join(map(" ".join, zip(("transformers", "torch", "Python"), told, strict=True)))


def known_results() -> dict[str, Any]:
    """The rows that there are."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def commit() -> str:
    """The commit that is checked out; ends where files differ from it, other than the results."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    if changed:
        raise SystemExit(f"A row of {FOLDER} names the commit that was tested: commit these files first.\n{changed}")
    return git("rev-parse", "--short=10", "HEAD")


def of_commit(python: Path, scratch: Path) -> dict[str, Any]:
    """The results of all of tests/host, with the commit that was tested."""
    tested = commit()
    seen = run_tests(python, [FOLDER], scratch)
    if commit() != tested:
        raise SystemExit(f"Another commit than {tested} was checked out while its tests ran: run them again.")
    return {**seen, "commit": tested}


def run_tests(python: Path, tests: list[str], scratch: Path) -> dict[str, Any]:
    """The number of tests that passed, the names of those that did not, and why tests were skipped."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    own |= {"HF_HOME": str(scratch / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    report = scratch / "tests.xml"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    ended = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    if not report.exists():
        return {"passed": 0, "failed": [(ended.stderr.strip() or ended.stdout).splitlines()[-1][:300]], "skipped": []}
    return read(report)


def read(report: Path) -> dict[str, Any]:
    """Counts a report of pytest in the form of JUnit."""
    passed, failed, skipped = 0, [], []
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        problems = [*case.findall("failure"), *case.findall("error")]
        if problems:
            failed.append(f"{name}: {problems[0].get('message', '').splitlines()[0][:200]}")
        elif (skip := case.find("skipped")) is not None:
            skipped.append(f"{name}: {skip.get('message', '')[:200]}")
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


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


def told(row: dict[str, Any], group: str) -> str:
    """The cell of a group."""
    if group not in row:
        return "not run"
    seen = row[group]
    of = f" (tests of {seen['tests of']})" if "tests of" in seen else ""
    if group == HOST:
        counts = [f"{seen['passed']} passed", *seen["failed"], f"{len(seen['skipped'])} skipped ({seen['commit']})"]
        return "; ".join(counts).replace("|", "\\|")
    reasons = reasons_of(seen)
    skipped = [f"{count} skipped: {reason}" for reason, count in sorted(reasons.items())]
    return "; ".join([f"{seen['passed']} passed{of}", *seen["failed"], *skipped]).replace("|", "\\|")


def reasons_of(seen: dict[str, Any]) -> Counter[str]:
    """How many tests of a group were skipped for which reason."""
    # A case in brackets may hold a colon itself.
    return Counter(re.sub(r"^\w+(\[.*\])?: ", "", name) for name in seen["skipped"])


def skips(results: dict[str, Any]) -> str:
    """A table of why tests of tests/host were skipped, and how many under which release; nothing without such rows."""
    rows = {name: reasons_of(results[name][HOST]) for name in sorted(results, key=order) if HOST in results[name]}
    if not rows:
        return ""
    titles = [name.split(", ")[0].removeprefix("transformers ") for name in rows]
    lines = [f"| Skipped of tests/host | {' | '.join(titles)} |", "|---" * (1 + len(rows)) + "|"]
    for reason in sorted(set().union(*rows.values())):
        lines.append(f"| {reason} | {' | '.join(str(row[reason] or '') for row in rows.values())} |")
    return "\n".join(lines) + "\n"


def order(name: str) -> list[list[int]]:
    """The releases of a row, for sorting."""
    return [[int(part) for part in re.findall(r"\d+", release.partition("+")[0])] for release in name.split(", ")]


def section(results: dict[str, Any]) -> str:
    """The part of the page that shows the results."""
    columns = ["transformers", "torch", "Python", *COLUMNS]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in sorted(results, key=order):
        cells = [part.split(" ")[1] for part in name.split(", ")] + [told(results[name], group) for group in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return SECTION + "\n".join([*lines, "", skips(results)])


if __name__ == "__main__":
    sys.exit(main())
