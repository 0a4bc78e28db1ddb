"""Processes that see what this one sees, torch and transformers above all, but neither mmtok nor the checkout."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import clean_load
from .base import BaseCheckpoint, TensorHeader, write_hollow
from .repository import CONFIG_FILE, shown

log = logging.getLogger(__name__)

# The importable modules of this project.
HIDDEN = ["mmtok", "hub_upload", "configuration_mmtok", "modeling_mmtok_llava"]
# Importing a name that stands for None fails, wherever mmtok may be installed. The process ends with its parent, whose
# end of the pipe is closed even when it is killed.
_BOOT = """
import os, runpy, sys, threading
sys.modules.update(dict.fromkeys({hidden!r}))
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class CheckFailed(RuntimeError):
    """What was staged is not what it has to be; the message says in what."""


def check_staged(
    folder: Path, base: BaseCheckpoint, scratch: Path, *, headers: Mapping[str, TensorHeader], full: bool = False
) -> dict[str, Any]:
    """Loads a staged folder in a clean process and compares it with its base, in a folder of its own; see `clean_load`.

    Both have their weights or neither; `scratch` is a folder for temporary files, `headers` are those of the base.

    Returns:
        The report: `tensors_compared`, `prompts_compared`, and with weights `prompt_tokens`, `kept_tokens`, `layers`,
        `dtype` and `largest_logit_difference`.

    Raises:
        ValueError: the base does not work with transformers' own class.
        CheckFailed: what was staged differs, or does not load.
    """
    log.info("Checking weights, code and settings in a clean process (minutes for a large model)")
    asked = {"base": str(base.folder), "weights": bool(base.weights), "full": full}
    fit = _hollow_copies(scratch, base.folder, folder, tensors=headers)
    read = _checked(folder, scratch, **asked, fit=fit, model_class=base.family.model_class)
    if faults := read.pop("base"):
        raise ValueError(f"The base {base.name} is at fault, not what was staged: {shown(faults[0])}.")
    _require_none(read.pop("problems"), "The staged folder is not its base")
    return {"tensors_compared": len(headers), **read}


def check_fit(folder: Path, base_config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> int:
    """Loads code and configuration in a clean process with weights that are headers only, and counts these.

    Raises:
        CheckFailed: a tensor is missing, unexpected or of another shape, or the class does not load.
    """
    with tempfile.TemporaryDirectory(prefix="mmtok-fit-") as temporary:
        scratch = Path(temporary)
        (scratch / "base").mkdir()
        (scratch / "base" / CONFIG_FILE).write_text(json.dumps(base_config), encoding="utf-8")
        read = _checked(folder, scratch, fit=_hollow_copies(scratch, scratch / "base", folder, tensors=tensors))
    _require_none([*read["base"], *read["problems"]], f"The {len(tensors)} tensors do not fit the staged model")
    return len(tensors)


def check_generate(folder: Path, scratch: Path) -> tuple[str, ...]:
    """Names of the stock classes that a `custom_generate` folder prunes in a clean process; see `clean_load`.

    Raises:
        CheckFailed: it does not load, or the full budget is not stock.
    """
    log.info("Checking the code in a clean process")
    read = _checked(folder, scratch)
    _require_none(read["problems"], "The staged code does not work")
    return tuple(read["classes"])


def _hollow_copies(scratch: Path, *sources: Path, tensors: Mapping[str, TensorHeader]) -> list[str]:
    """Folders with the code and the settings of others, and weights that are headers only."""
    copies = [scratch / f"fit-{number}" for number in range(len(sources))]
    for copy, source in zip(copies, sources, strict=True):
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors*"))
        write_hollow(copy, tensors)
    return list(map(str, copies))


def _checked(folder: Path, scratch: Path, **request: Any) -> dict[str, Any]:
    """The report that the program writes of a folder; a CheckFailed where it wrote none."""
    report, asked = scratch / "report.json", scratch / "request.json"
    request |= {"folder": str(folder.resolve()), "report": str(report)}
    asked.write_text(json.dumps(request), encoding="utf-8")
    ended = run_clean(["-c", _BOOT.format(hidden=HIDDEN), clean_load.__file__, str(asked)], scratch=scratch)
    if not report.exists():
        said = [line for line in ended.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise CheckFailed(f"The check of {shown(folder.name)} ended with code {ended.returncode}: {shown(said[-1])}")
    return json.loads(report.read_text(encoding="utf-8"))


def _require_none(problems: Sequence[str], otherwise: str) -> None:
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckFailed(f"{otherwise}: {shown(problems[0])}{more}.")


def run_clean(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
    scratch: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs Python on `arguments` in an empty folder; whatever this Python imports can be imported there.

    Remote code is cached in a folder that ends with the process, and the Hub is out of reach unless `environment`, with
    variables in place of this process's, says otherwise. The process is ended when this function is interrupted, or
    after `timeout` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="mmtok-clean-", dir=scratch) as temporary:
        (working := Path(temporary) / "working").mkdir()
        own = {**os.environ, "HF_MODULES_CACHE": str(Path(temporary) / "modules"), "HF_HUB_OFFLINE": "1"}
        waiting, open_while_we_live = os.pipe()
        try:
            return subprocess.run(
                [sys.executable, "-B", *arguments],
                cwd=working,
                env=own | dict(environment or {}),
                stdin=waiting,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
            )
        finally:
            os.close(waiting)
            os.close(open_while_we_live)
