"""Uses the staged folders, in both key layouts, under every covered release; writes results.json and docs/compat.md.

`python compat/run.py` makes one environment for each pair of releases, over one of torch that they share;
`--only 5.1.0` runs those with that release of either, and every row that is done joins results.json at once.
`--page` writes the page from the results that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS, PAGE, ENVIRONMENTS = HERE / "results.json", ROOT / "docs" / "compat.md", HERE / "environments"
# What cards say of the tested releases.
TESTED = ROOT / "mmtok" / "publish" / "facts" / "tested_versions.json"
FREE_BYTES = 15 << 30  # of the disk, which a run leaves: an environment of torch for GPUs has several of them
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import compat.suite as suite  # noqa: E402
from compat.versions import NAMED, TORCH, Pair, covered, released  # noqa: E402

# Family -> whether its stock processor needs torchvision, which is then in an environment over the pair's own.
FAMILIES = {"llava": False, "llava-next": False, "llava-onevision": True}
# In 4.57.1 stock's SigLIP tower gives other features than in later releases, and so other picks than the newest.
NOT_COMPARED = {"4.57.1": ("llava-onevision",)}
FOLDERS = tuple(f"{family}, {layout} layout" for family in FAMILIES for layout in ("llava-hf", "new"))

HEAD = """\
# Under which releases it works

Tested with transformers {oldest} to {newest}; on another release run `mmtok doctor`, which compares pruning with stock.

- {passing} of {environments} environments pass every check, with torch {oldest_torch} to {newest_torch}.
- Where `mmtok doctor` says wrong, or where importing the model classes is an `ImportError`, install transformers
  {newest} or a newer release of MMTok: a release that renames what the classes rely on is refused, not run.
- The oldest release runs in every test run: `tests/host/test_stock_parity.py` is the short file that holds every way of
  generating equal to stock.

## What is checked

Each row is an environment of its own, without the mmtok package, on CPU; those with one release of torch share its
installation. It loads small staged models of the families in both key layouts with `trust_remote_code=True` and
checks:

- no missing, unexpected or mismatched key, and no deprecation warning from our files;
- the kept indices and the greedy tokens of the newest release, beams, the pipeline, saving and loading again;
- the full budget equal to stock, bit for bit;
- refusal without `trust_remote_code`.

LLaVA-OneVision is not compared on 4.57.1, where stock's SigLIP tower gives other features than in later releases; the
parity tests hold it to stock there.

Before that, staging compared every tensor with the base's under the newest release. `make compat` runs the checks and
writes this page from `compat/results.json`.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="releases of transformers or torch to run; others keep their results")
    parser.add_argument("--page", action="store_true", help="write docs/compat.md from results.json, run nothing")
    given = parser.parse_args(arguments)
    results = known_results()
    if not given.page:
        pairs = covered(released("transformers"), released("torch"))
        if given.only:
            pairs = [pair for pair in pairs if {pair.transformers, pair.torch} & set(given.only)]
        # The newest that the project names come first, so that a run that is cut short has them.
        pairs.reverse()
        pairs.sort(key=lambda pair: (pair.torch != TORCH, pair.transformers not in NAMED))
        with tempfile.TemporaryDirectory() as scratch:
            request = stage_folders(Path(scratch))
            for number, pair in enumerate(pairs):
                print(f"[{number + 1}/{len(pairs)}] {pair.name}", flush=True)
                row = run(pair, request)
                # Read again: another run may have added its rows meanwhile.
                results = {**known_results(), pair.name: row}
                RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                PAGE.write_text(page(results), encoding="utf-8")
                make_room(pair, pairs[number + 1 :])
    PAGE.write_text(page(results), encoding="utf-8")
    TESTED.write_text(json.dumps(passing_releases(results), indent=2) + "\n", encoding="utf-8")
    bad = {name: problems(result, results) for name, result in results.items()}
    for name, found in bad.items():
        for problem in found:
            print(f"{name}: {problem}", file=sys.stderr)
    return 1 if any(bad.values()) else 0


def known_results() -> dict[str, Any]:
    """The rows that there are."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def stage_folders(scratch: Path) -> Path:
    """Stages small checkpoints of every family in both key layouts; returns the request for `check.py`."""
    from chat_checkpoints import make_chat_checkpoint
    from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

    from mmtok.publish import stage

    makers = {
        "llava": make_llava_checkpoint,
        "llava-next": make_llava_next_checkpoint,
        "llava-onevision": partial(make_chat_checkpoint, kind="llava_onevision"),
    }
    folders = {}
    for name in FOLDERS:
        family, layout = name.removesuffix(" layout").split(", ")
        base = makers[family](scratch / f"base {name}", layout=layout)
        folders[name] = str(stage(base, scratch / name.replace(", ", "-").replace(" ", "-")).path)
    request = scratch / "request.json"
    request.write_text(json.dumps(folders), encoding="utf-8")
    return request


def run(pair: Pair, request: Path) -> dict[str, Any]:
    """What `check.py` sees in the pair's environment, and of some families in that with torchvision."""
    folders = json.loads(request.read_text(encoding="utf-8"))
    left_out = NOT_COMPARED.get(pair.transformers, ())
    folders = {name: path for name, path in folders.items() if name.split(",")[0] not in left_out}
    row: dict[str, Any] = {}
    for vision in (False, True):
        own = {name: path for name, path in folders.items() if FAMILIES[name.split(",")[0]] == vision}
        if not own:
            continue
        try:
            seen = checked(environment(pair, vision=vision), own)
        except subprocess.CalledProcessError as error:
            seen = {"not_installable": (error.stderr or str(error)).strip().splitlines()[-1][:300]}
        if "folders" not in seen:
            return seen
        row = {**row, **seen, "folders": {**row.get("folders", {}), **seen["folders"]}}
    return {**row, "machine": platform.machine()}


def checked(python: Path, folders: dict[str, str]) -> dict[str, Any]:
    """What `check.py` sees of staged folders, run by this Python."""
    with tempfile.TemporaryDirectory() as scratch:
        request, report = Path(scratch) / "request.json", Path(scratch) / "report.json"
        request.write_text(json.dumps(folders), encoding="utf-8")
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        own |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(scratch) / "modules")}
        ended = subprocess.run(
            [python, "-I", "-B", HERE / "check.py", request, report],
            cwd=scratch,
            env=own,
            capture_output=True,
            text=True,
        )
        if not report.exists():
            return {"failed": (ended.stderr.strip() or "it said nothing").splitlines()[-1][:300]}
        return json.loads(report.read_text(encoding="utf-8"))


def environment(pair: Pair, *, vision: bool = False) -> Path:
    """The Python of the pair's environment, which is made when it is not there.

    Args:
        pair: releases of transformers and torch.
        vision: whether to have the torchvision that belongs to the torch too.
    """
    torch = installed(torch_folder(pair), [f"torch=={pair.torch}", "numpy", "pillow", "jinja2"])
    own = installed(ENVIRONMENTS / pair.name, [f"transformers=={pair.transformers}"], over=[torch])
    if vision:
        needed = ["torchvision", f"torch=={pair.torch}"]
        own = installed(ENVIRONMENTS / f"{pair.name}-torchvision", needed, over=[own, torch])
        declare = ROOT / "tests" / "support" / "declare_torchvision_ops.py"
        subprocess.run([own / "bin" / "python", declare], check=True, capture_output=True, text=True)
    return own / "bin" / "python"


def torch_folder(pair: Pair) -> Path:
    return ENVIRONMENTS / f"torch-{pair.torch}"


def installed(folder: Path, needed: list[str], over: Sequence[Path] = ()) -> Path:
    """A virtual environment with packages, which sees those of other environments too; returns its folder."""
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
    if over:
        lines = "".join(f"{site_packages(each)}\n" for each in over)
        (site_packages(folder) / "over.pth").write_text(lines, encoding="utf-8")
    if needed:
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *needed], check=True, capture_output=True, text=True)
    (folder / "complete").touch()
    return folder


def site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def make_room(done: Pair, rest: list[Pair]) -> None:
    """Removes the environment of a row where the disk is nearly full, and its torch with the last row that needs it."""
    if shutil.disk_usage(HERE).free > FREE_BYTES:
        return
    for name in (done.name, f"{done.name}-torchvision"):
        shutil.rmtree(ENVIRONMENTS / name, ignore_errors=True)
    if done.torch not in {pair.torch for pair in rest}:
        shutil.rmtree(torch_folder(done), ignore_errors=True)


def problems(result: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What is not as it has to be under one release."""
    if "failed" in result:
        return [result["failed"]]
    found = []
    for name, seen in result.get("folders", {}).items():
        if "error" in seen:
            found.append(f"{name}: {seen['error']}")
            continue
        found += [f"{name}: {what} {keys}" for what, keys in seen["loading"].items()]
        found += [f"{name}: after saving, {what} {keys}" for what, keys in seen["loading_again"].items()]
        found += [f"{name}: {text}" for text in seen["our_deprecations"]]
        for check in ("same_again", "pipeline", "full_budget_is_stock", "refused_without_trust"):
            if not seen[check]:
                found.append(f"{name}: {check.replace('_', ' ')} is not so")
        newest = newest_of(results, name)
        found += [f"{name}: other {what} than the newest" for what in ("kept", "tokens") if seen[what] != newest[what]]
    return found


def passing_releases(results: dict[str, Any]) -> dict[str, str]:
    """The oldest and the newest release of transformers of which no row has a problem."""
    bad = {order(name)[0] for name, row in results.items() if problems(row, results)}
    good = {order(name)[0] for name, row in results.items() if "folders" in row} - bad
    return {"oldest": ".".join(map(str, min(good))), "newest": ".".join(map(str, max(good)))}


def newest_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    """What the newest release saw of a folder."""
    usable = {key: value for key, value in results.items() if "kept" in value.get("folders", {}).get(name, {})}
    newest = max(usable, key=lambda key: tuple(map(int, usable[key]["transformers"].split("."))))
    return usable[newest]["folders"][name]


def page(results: dict[str, Any]) -> str:
    good = [name for name, result in results.items() if "folders" in result and not problems(result, results)]
    torches = sorted((name.split("-torch-")[1] for name in good), key=lambda text: tuple(map(int, text.split("."))))
    head = HEAD.format(
        **passing_releases(results),
        passing=len(good),
        environments=len(results),
        oldest_torch=torches[0],
        newest_torch=torches[-1],
    )
    lines = [
        head,
        "| transformers | torch | Python | " + " | ".join(FOLDERS) + " |",
    ]
    lines.append("|---|---|---|" + "---|" * len(FOLDERS))
    for name, result in sorted(results.items(), key=lambda item: order(item[0])):
        transformers, torch = name.removeprefix("transformers-").split("-torch-")
        if "folders" not in result:
            said = result.get("not_installable") or result["failed"]
            lines.append(f"| {transformers} | {torch} | | {said} |" + " |" * (len(FOLDERS) - 1))
            continue
        found = problems(result, results)
        cells = []
        for folder in FOLDERS:
            if folder not in result["folders"]:
                cells.append("not run")
                continue
            own = [problem.removeprefix(f"{folder}: ") for problem in found if problem.startswith(f"{folder}: ")]
            cells.append("; ".join(own) or "all checks pass")
        lines.append(f"| {transformers} | {result['torch']} | {result['python']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + suite.section(suite.known_results())


def order(name: str) -> tuple[Any, ...]:
    transformers, torch = name.removeprefix("transformers-").split("-torch-")
    return tuple(map(int, transformers.split("."))), tuple(map(int, torch.split(".")))


if __name__ == "__main__":
    sys.exit(main())
