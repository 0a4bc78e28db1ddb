"""Processes that see what this one sees, torch and transformers above all, but neither mmtok nor the checkout."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

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
    """Loads a staged folder in a clean process and compares it with its base; see `clean_load`.

    Args:
        folder: the staged folder; with weights where the base has them.
        base: what it was staged from, in a folder of its own.
        scratch: an existing folder for temporary files.
        headers: of every tensor of the base.
        full: compares all layers.

    Returns:
        The report: `tensors_compared`, `prompts_compared`, and with weights `prompt_tokens`, `kept_tokens`, `layers`,
        `dtype` and `largest_logit_difference`.

    Raises:
        ValueError: the base does not work with transformers' own class.
        CheckFailed: what was staged differs, or does not load.
    """
    log.info("Checking weights, code and settings in a clean process")
    fit = [
        _hollow(scratch / f"fit-{side}", source, headers)
        for side, source in (("base", base.folder), ("staged", folder))
    ]
    asked = {"base": str(base.folder), "fit": fit, "weights": bool(base.weights), "full": full}
    read = _checked(folder, scratch, **asked, model_class=base.family.model_class)
    if faults := read.pop("base"):
        raise ValueError(f"The base {base.name} is at fault, not what was staged: {shown(faults[0])}.")
    _require_none(read.pop("problems"), "The staged folder is not its base")
    return {"tensors_compared": len(headers), **read}


def check_fit(folder: Path, base_config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> int:
    """Loads a staged folder in a clean process with weights that are headers only.

    Args:
        folder: holds code and configuration.
        base_config: configuration of the stock checkpoint.
        tensors: of the stock checkpoint, by name.

    Returns:
        The number of tensors.

    Raises:
        CheckFailed: a tensor is missing, unexpected or of another shape, or the class does not load.
    """
    with tempfile.TemporaryDirectory(prefix="mmtok-fit-") as temporary:
        scratch = Path(temporary)
        (scratch / "base").mkdir()
        (scratch / "base" / CONFIG_FILE).write_text(json.dumps(base_config), encoding="utf-8")
        fit = [_hollow(scratch / f"fit-{path.name}", path, tensors) for path in (scratch / "base", folder)]
        read = _checked(folder, scratch, fit=fit)
    _require_none([*read["base"], *read["problems"]], f"The {len(tensors)} tensors do not fit the staged model")
    return len(tensors)


def check_generate(folder: Path, scratch: Path) -> tuple[str, ...]:
    """Loads a `custom_generate` folder in a clean process and prunes a small model with it; see `clean_load`.

    Returns:
        Names of the stock classes that it prunes.

    Raises:
        CheckFailed: it does not load, or the full budget is not stock.
    """
    log.info("Checking the code in a clean process")
    read = _checked(folder, scratch)
    _require_none(read["problems"], "The staged code does not work")
    return tuple(read["classes"])


def _hollow(folder: Path, source: Path, headers: Mapping[str, TensorHeader]) -> str:
    """A folder with the code and the settings of another one, and weights that are headers only."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix in (".py", ".json") and not path.name.endswith(".index.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    write_hollow(folder, headers)
    return str(folder)


def _checked(folder: Path, scratch: Path, **request: Any) -> dict[str, Any]:
    """The report that the program writes of a folder.

    Raises:
        CheckFailed: it wrote none.
    """
    report, asked = scratch / "report.json", scratch / "request.json"
    request |= {"folder": str(folder.resolve()), "report": str(report)}
    asked.write_text(json.dumps(request), encoding="utf-8")
    with tqdm(desc="Checking", total=1, bar_format="{l_bar}{bar}| {elapsed}", delay=2, disable=None) as bar:

        def show(line: str) -> None:
            if step := re.match(r"step (\d+) (\d+) (.*)", line):
                bar.total = int(step[2])
                bar.set_description_str(f"Checking {step[3]}", refresh=False)
                bar.update(int(step[1]) - bar.n)

        boot = _BOOT.format(hidden=HIDDEN)
        ended = run_clean(["-c", boot, clean_load.__file__, str(asked)], scratch=scratch, on_line=show)
    if not report.exists():
        raise CheckFailed(f"The check of {shown(folder.name)} ended with code {ended.returncode}: {_last_line(ended)}")
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
    on_line: Callable[[str], None] = lambda line: None,
) -> subprocess.CompletedProcess[str]:
    """Runs Python on `arguments` in an empty folder; whatever this Python imports can be imported there.

    Remote code is cached in a folder that ends with the process, and the Hub is out of reach unless `environment` says
    otherwise. The process is ended when this function is interrupted.

    Args:
        arguments: of Python.
        environment: variables in place of this process's.
        timeout: in seconds.
        scratch: an existing folder for temporary files, the system's by default.
        on_line: is called with each line that is printed.
    """
    with tempfile.TemporaryDirectory(prefix="mmtok-clean-", dir=scratch) as temporary:
        (working := Path(temporary) / "working").mkdir()
        own = {**os.environ, "HF_MODULES_CACHE": str(Path(temporary) / "modules"), "HF_HUB_OFFLINE": "1"}
        with (
            (Path(temporary) / "said").open("w+", encoding="utf-8", errors="replace") as said,
            subprocess.Popen(
                [sys.executable, "-B", *arguments],
                cwd=working,
                env=own | dict(environment or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            printed = []
            try:
                if timeout is not None:
                    printed.append(process.communicate(timeout=timeout)[0])
                for line in process.stdout if timeout is None else ():
                    printed.append(line)
                    on_line(line)
                code = process.wait()
            except BaseException:
                process.kill()
                raise
            said.seek(0)
            return subprocess.CompletedProcess(list(arguments), code, "".join(printed), said.read())


def _last_line(ended: subprocess.CompletedProcess[str]) -> str:
    return shown(next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "it said nothing"))
