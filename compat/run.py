"""Uses the staged folders, in both key layouts, under every covered release; writes results.json and docs/compat.md.

`python compat/run.py` makes one environment for each release in compat/environments; `--only 5.1.0 4.57.6` runs some of
them, `--page` writes the page from the results that are there.
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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS, PAGE, ENVIRONMENTS = HERE / "results.json", ROOT / "docs" / "compat.md", HERE / "environments"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from compat.versions import NAMED, TORCH, Pair, covered, released  # noqa: E402

FOLDERS = ("llava, llava-hf layout", "llava, new layout", "llava-next, llava-hf layout", "llava-next, new layout")

HEAD = """\
# Under which releases it works

Written by `make compat` from `compat/results.json`. Each row is an environment of its own, without the mmtok package,
on CPU. It loads small staged models of both families in both key layouts with `trust_remote_code=True` and checks: no
missing, unexpected or mismatched key; the kept indices and the greedy tokens of the newest release; beams; the
pipeline; saving and loading again; the full budget equal to stock, bit for bit; refusal without `trust_remote_code`;
no deprecation warning from our files. Before that, staging compared every tensor with the base's under the newest
release.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="releases of transformers to run; the others keep their results")
    parser.add_argument("--page", action="store_true", help="write docs/compat.md from results.json, run nothing")
    given = parser.parse_args(arguments)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not given.page:
        pairs = [pair for pair in covered(released()) if not given.only or pair.transformers in given.only]
        with tempfile.TemporaryDirectory() as scratch:
            request = stage_folders(Path(scratch))
            # Those that the project names come first, so that a run that is cut short has them.
            for number, pair in enumerate(
                sorted(pairs, key=lambda pair: (pair.transformers not in NAMED, pair.torch != TORCH)), 1
            ):
                print(f"[{number}/{len(pairs)}] {pair.name}", flush=True)
                results[pair.name] = run(pair, request)
                RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    bad = {name: problems(result, results) for name, result in results.items()}
    for name, found in bad.items():
        for problem in found:
            print(f"{name}: {problem}", file=sys.stderr)
    return 1 if any(bad.values()) else 0


def stage_folders(scratch: Path) -> Path:
    """Stages small checkpoints of both families in both key layouts; returns the request for `check.py`."""
    from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

    from mmtok.publish import stage

    makers = {"llava": make_llava_checkpoint, "llava-next": make_llava_next_checkpoint}
    folders = {}
    for name in FOLDERS:
        family, layout = name.removesuffix(" layout").split(", ")
        base = makers[family](scratch / f"base {name}", layout=layout)
        folders[name] = str(stage(base, scratch / name.replace(", ", "-").replace(" ", "-")).path)
    request = scratch / "request.json"
    request.write_text(json.dumps(folders), encoding="utf-8")
    return request


def run(pair: Pair, request: Path) -> dict[str, Any]:
    """What `check.py` sees in the pair's environment."""
    try:
        python = environment(pair)
    except subprocess.CalledProcessError as error:
        return {"not_installable": (error.stderr or str(error)).strip().splitlines()[-1][:300]}
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
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
        return {**json.loads(report.read_text(encoding="utf-8")), "machine": platform.machine()}


def environment(pair: Pair) -> Path:
    """The Python of the pair's environment, which is made when it is not there."""
    folder = ENVIRONMENTS / pair.name
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    needed = [f"transformers=={pair.transformers}", f"torch=={pair.torch}", "pillow", "jinja2", "numpy"]
    uv = shutil.which("uv")
    if uv:
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(python), *needed],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needed],
        ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True)
    (folder / "complete").touch()
    return python


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


def newest_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    """What the newest release saw of a folder."""
    usable = {key: value for key, value in results.items() if "kept" in value.get("folders", {}).get(name, {})}
    newest = max(usable, key=lambda key: tuple(map(int, usable[key]["transformers"].split("."))))
    return usable[newest]["folders"][name]


def page(results: dict[str, Any]) -> str:
    lines = [HEAD, "| transformers | torch | Python | " + " | ".join(FOLDERS) + " |"]
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
            own = [problem.removeprefix(f"{folder}: ") for problem in found if problem.startswith(f"{folder}: ")]
            cells.append("; ".join(own) or "all checks pass")
        lines.append(f"| {transformers} | {result['torch']} | {result['python']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def order(name: str) -> tuple[Any, ...]:
    transformers, torch = name.removeprefix("transformers-").split("-torch-")
    return tuple(map(int, transformers.split("."))), tuple(map(int, torch.split(".")))


if __name__ == "__main__":
    sys.exit(main())
