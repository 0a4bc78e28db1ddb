"""Processes that see torch, transformers and a staged folder, but neither mmtok nor the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import clean_generate, clean_load
from .base import BaseCheckpoint
from .families import installed_modules


class CheckFailed(RuntimeError):
    """What was staged is not what it has to be; the message says in what."""


def check_staged(folder: Path, base: BaseCheckpoint, *, weights: bool = True) -> dict[str, Any]:
    """Loads a staged folder in a clean process and compares it with its base; see `clean_load`.

    Args:
        folder: the staged folder.
        base: what it was staged from.
        weights: False for a base whose weights are not here; the names in its index are compared then.

    Returns:
        The report: `tensors_compared`, `prompts_compared`, and with weights `prompt_tokens`, `kept_tokens`, `dtype`
        and `largest_logit_difference`.

    Raises:
        CheckFailed: something differs, or does not load.
    """
    read = _checked(
        clean_load.__file__,
        folder,
        base=str(base.folder),
        model_class=base.family.model_class,
        weights=weights,
        tensor_names=sorted(base.weight_map),
    )
    _require_none(read.pop("problems"), "The staged folder is not its base")
    return read


def check_generate(folder: Path) -> tuple[str, ...]:
    """Loads a `custom_generate` folder in a clean process and prunes a small model with it; see `clean_generate`.

    Returns:
        Names of the stock classes that it prunes.

    Raises:
        CheckFailed: it does not load, or the full budget is not stock.
    """
    read = _checked(clean_generate.__file__, folder)
    _require_none(read["problems"], "The staged code does not work")
    return tuple(read["classes"])


def _checked(program: str, folder: Path, **request: Any) -> dict[str, Any]:
    """The report that a program writes of a folder.

    Raises:
        CheckFailed: it wrote none.
    """
    with tempfile.TemporaryDirectory(prefix="mmtok-check-") as scratch:
        report, asked = Path(scratch) / "report.json", Path(scratch) / "request.json"
        request |= {"folder": str(folder.resolve()), "report": str(report), "blocked": list(installed_modules())}
        asked.write_text(json.dumps(request), encoding="utf-8")
        ended = run_clean([program, str(asked)])
        if not report.exists():
            raise CheckFailed(f"The check of {folder.name} ended with code {ended.returncode}: {_last_line(ended)}")
        return json.loads(report.read_text(encoding="utf-8"))


def _require_none(problems: Sequence[str], otherwise: str) -> None:
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckFailed(f"{otherwise}: {problems[0]}{more}.")


def run_clean(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python on `arguments`, isolated: no PYTHON variables, no current folder and no script folder on its path.

    Remote code is cached in a folder that ends with the process, and the Hub is out of reach unless `environment` says
    otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="mmtok-clean-") as scratch:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        own |= {"HF_MODULES_CACHE": str(Path(scratch) / "modules"), "HF_HUB_OFFLINE": "1", **(environment or {})}
        return subprocess.run(
            [sys.executable, "-I", "-B", *arguments],
            cwd=scratch,
            env=own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
        )


def _last_line(ended: subprocess.CompletedProcess[str]) -> str:
    return next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "it said nothing")
