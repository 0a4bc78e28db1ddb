"""transformers' own model tests under a release: those of the stock classes and of the pruned classes with pruning off.

The tests are `ModelTesterMixin` of the release's source distribution, which leaves out its tests of generation and of
export; empty classes stand for those. The tests of generation, `GenerationTesterMixin`, are in the repository of
transformers alone: where their file is given, they run in place of the others. A test of the pruned class has to end as
the same test of the stock class, or of an empty subclass of it where transformers treats its own classes otherwise
(`upstream_cases.OUTSIDE`).
"""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from compat.results import endings

CASES = Path(__file__).with_name("upstream_cases.py")
# What the source distribution leaves out, and the classes that the tests import from there.
LEFT_OUT = {
    "generation/test_utils.py": ("GenerationTesterMixin",),
    "exporters/test_export.py": ("ExportTesterMixin", "ExportGenerateTesterMixin"),
}


def prepare(folder: Path, release: str, generation_tests: Path | None = None) -> None:
    """Puts the `tests` of the source distribution in `folder` beside it, with the file of the cases.

    Args:
        folder: has transformers-RELEASE.tar.gz.
        release: of transformers.
        generation_tests: `tests/generation/test_utils.py` of the release or of one near it, to run those.
    """
    unpack(folder / f"transformers-{release}.tar.gz", "tests", folder)
    for name, class_names in LEFT_OUT.items():
        target = folder / "tests" / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(f"class {each}:\n    pass\n" for each in class_names), encoding="utf-8")
    if generation_tests is not None:
        shutil.copy(generation_tests, folder / "tests" / "generation" / "test_utils.py")
    shutil.copy(CASES, folder)


def unpack(distribution: Path, name: str, folder: Path) -> None:
    """Puts the folder `name` at the top of a source distribution into `folder`."""
    with tarfile.open(distribution) as archive:
        for member in archive:
            inside = member.name.partition("/")[2]
            if member.isfile() and inside.startswith(f"{name}/"):
                archive.extract(member.replace(name=inside, deep=False), folder, filter="data")


def read(report: Path) -> dict[str, Any]:
    """Compares the results of a report of pytest in the form of JUnit, test by test; "of stock" is how those ended."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for case, ended, _ in endings(report):
        kind, _, family = case.get("classname", "").rpartition(".")[2].partition("_")
        kind = kind.removeprefix("Generation")
        if kind in ("Stock", "Pruned", "Subclass"):
            seen[f"{family}: {case.get('name', '')}"][kind].add(ended)
    equal, different = 0, []
    ended_as: Counter[str] = Counter()
    for name, both in sorted(seen.items()):
        kinds = ("Subclass" if "Subclass" in both else "Stock", "Pruned")
        stock, pruned = ("+".join(sorted(both[kind])) or "absent" for kind in kinds)
        ended_as[stock] += 1
        if stock == pruned:
            equal += 1
        else:
            different.append(f"{name}: {stock} with stock, {pruned} with pruning off")
    return {"passed": equal, "failed": different, "skipped": [], "of stock": dict(sorted(ended_as.items()))}
