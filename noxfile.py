"""Sessions under the supported releases of transformers and torch; each adds its row to compat/*.json.

`staged` uses staged folders as a user without mmtok would, `suite` runs tests of this repository, and `upstream`
transformers' own model tests. `nox -l` lists all, `nox -s "staged(5.1.0)"` runs one. Run nox from an environment with
mmtok and torchvision, which stages the folders. In 4.57.1 stock's SigLIP tower gives other features than later
releases, so that LLaVA-OneVision is not compared there.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from compat import results, upstream  # noqa: E402

nox.options.sessions = ["staged", "suite", "upstream"]
nox.options.default_venv_backend = "venv"
TORCH = "2.13.0"
RELEASES = ("4.57.1", "4.57.6", "5.1.0", "5.5.0", "5.10.4", "5.17.0", "5.20.2", "5.23.0", "5.24.0")
TORCHES = ("2.6.0", "2.7.1", "2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.14.1", "2.15.0")
PAIRS = [nox.param(release, TORCH, id=release) for release in RELEASES]
PAIRS += [nox.param(RELEASES[-1], torch, id=f"{RELEASES[-1]}-torch-{torch}") for torch in TORCHES]
PAIRS += [nox.param("4.57.6", "2.6.0", id="4.57.6-torch-2.6.0")]
# The first that has the later families.
PAIRS += [nox.param("5.9.0", TORCH, id="5.9.0")]
ALONE = [nox.param(release, id=release) for release in RELEASES]
# What the tests need beside torch and transformers.
PACKAGES = (
    *("accelerate", "hypothesis", "jinja2", "parameterized", "peft", "protobuf", "pytest", "pyyaml", "safetensors"),
    *("pillow", "sentencepiece", "starlette", "tqdm", "uvicorn"),
)
PUBLISHED = "tests/host/test_published.py::test_a_"
GROUPS = {
    "parity with stock": ["tests/host/test_stock_parity.py"],
    "publishing": [
        PUBLISHED + "published_model_answers_as_the_staged_folder_with_and_without_the_hub",
        PUBLISHED + "fine_tuned_model_is_pushed_and_loads_again",
    ],
    results.HOST: ["tests/host"],
}


def environment(session: nox.Session) -> dict[str, str | None]:
    """Nothing of the caller's Python, of its cache or of its Hub; no network for the Hub."""
    own = dict.fromkeys(name for name in os.environ if name.startswith(("PYTHON", "HF_")))
    return {**own, "HF_HOME": session.create_tmp(), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def later_families(transformers: str) -> list[str]:
    """The model types behind LLaVA-NeXT that a release has and that are compared there."""
    from mmtok.hub.families import FAMILIES

    there = [name for name, family in FAMILIES.items() if results.numbers(transformers) >= family.since]
    return [name for name in there[2:] if (name, transformers) != ("llava_onevision", "4.57.1")]


def stage_small(folder: Path, families: Iterable[str]) -> None:
    """Stages small checkpoints in both key layouts, whose folders request.json names for compat/check.py."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from chat_checkpoints import make_checkpoint

    from mmtok.publish import stage

    staged = {}
    for family in families:
        for layout in ("llava-hf", "new"):
            name = family.replace("_", "-")
            place = folder / f"{name}-{layout}"
            shutil.rmtree(place, ignore_errors=True)
            base = make_checkpoint(place / "base", family, layout=layout)
            staged[f"{name}, {layout} layout"] = str(stage(base, place / f"{place.name}-mmtok", check=False).path)
    (folder / "request.json").write_text(json.dumps(staged), encoding="utf-8")


def run_pytest(session: nox.Session, group: str, *tests: str, env: dict[str, Any], reader: Any = results.read) -> None:
    """Runs pytest and adds what it found to the row of the session's versions; fails where a test did."""
    of = {"commit": results.commit()} if group == results.HOST else {}
    report = Path(session.create_tmp()) / "report.xml"
    report.unlink(missing_ok=True)
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    session.run(*command, env=env, success_codes=[0, 1])
    asked = (
        "import platform, torch, transformers as t; print(t.__version__, torch.__version__, platform.python_version())"
    )
    told = str(session.run("python", "-c", asked, silent=True)).split()
    name = ", ".join(map(" ".join, zip(("transformers", "torch", "Python"), told, strict=True)))
    row = {group: {**reader(report), **of}}
    results.add("suite", name, row)
    if failed := results.failures(row):
        session.error("\n".join(failed))


@nox.session
@nox.parametrize("transformers,torch", PAIRS)
def staged(session: nox.Session, transformers: str, torch: str) -> None:
    """Staged folders, used without mmtok; those whose stock processor needs torchvision once it is installed too."""
    session.install(f"torch=={torch}", f"transformers=={transformers}", "numpy", "pillow", "jinja2")
    folder = Path(session.create_tmp())
    row: dict[str, Any] = {"machine": platform.machine(), "folders": {}}
    env = {**environment(session), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    for families in (("llava", "llava_next"), later_families(transformers)):
        if "llava" not in families:
            session.install("torchvision", f"torch=={torch}")
            session.run("python", "tests/support/declare_torchvision_ops.py")
        stage_small(folder, families)
        session.run("python", "-I", "-B", "compat/check.py", str(folder), env=env)
        seen = results.load(folder / "report.json")
        row = {**seen, **row, "folders": {**row["folders"], **seen["folders"]}}
    results.add("results", f"transformers-{transformers}-torch-{torch}", row)
    if problems := results.problems(row, results.load("results")):
        session.error("\n".join(problems))


def with_tests(session: nox.Session, transformers: str) -> None:
    """Installs a release with what the tests need."""
    session.install(f"torch=={TORCH}", f"transformers=={transformers}", *PACKAGES)


@nox.session
@nox.parametrize("transformers", ALONE)
def suite(session: nox.Session, transformers: str) -> None:
    """Parity with stock and publishing; `-- all` also runs all of tests/host, of a committed state."""
    with_tests(session, transformers)
    for group, tests in GROUPS.items():
        if group != results.HOST or "all" in session.posargs:
            run_pytest(session, group, *tests, env=environment(session))


@nox.session(name="upstream")
@nox.parametrize("transformers", ALONE)
def upstream_tests(session: nox.Session, transformers: str) -> None:
    """transformers' model tests; `-- PATH` runs the tests of generation of its tests/generation/test_utils.py."""
    with_tests(session, transformers)
    folder = Path(session.create_tmp())
    download = ("--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder))
    session.run("python", "-m", "pip", "download", *download, f"transformers=={transformers}")
    generation = next(map(Path, session.posargs), None)
    upstream.prepare(folder, transformers, generation)
    paths = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests" / "support")))
    env = {**environment(session), "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    group = "transformers' generation tests" if generation else "transformers' model tests"
    chosen = (
        "-k",
        "Generation" if generation else "not Generation",
        f"--rootdir={folder}",
        str(folder / "upstream_cases.py"),
    )
    with session.chdir(folder):
        run_pytest(session, group, *chosen, env=env, reader=upstream.read)
