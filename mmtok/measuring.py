"""What every measurement says of itself: the machine with its versions, and how much the language model read."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def machine(*packages: str) -> dict[str, Any]:
    """Describe this machine, its load at this moment, and the versions in use.

    Args:
        packages: distributions to name besides Python and torch; one that is missing is "not installed".

    Returns:
        JSON values: `processor`, `cores`, `threads` (torch's), `load_average` (of one minute; None where the system has
        none), `device` (the CUDA device or None), `date` (UTC) and `versions`.
    """
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{package: _version(package) for package in packages},
        },
    }


def processor() -> str:
    """Name the processor. Linux tells the model in /proc/cpuinfo alone."""
    described = Path("/proc/cpuinfo")
    for line in described.read_text(encoding="utf-8").splitlines() if described.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def prompt_lengths(model: Any) -> Iterator[list[int]]:
    """Records the length of every prompt that this thread hands to the language model.

    Padding and decoding steps are left out. This is the one place where prompts are counted as they reach the model.
    Counting here, and not where tokens are selected, means that no option can silently do nothing.

    Args:
        model: a LLaVA model, pruned or stock.

    Yields:
        A list that grows by one number for each row of each batch, in their order.
    """
    lengths: list[int] = []
    caller = threading.get_ident()

    def record(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embeds = kwargs.get("inputs_embeds", args[0] if args else None)
        if threading.get_ident() != caller or embeds is None or embeds.shape[1] == 1:
            return
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):  # one for each type of layer
            mask = mask.get("full_attention")
        if mask is not None and mask.dim() == 2:
            lengths.extend(mask.sum(1).tolist())
        elif mask is not None:  # (B, 1, L, L): what the last token sees
            seen = mask[:, 0, -1]
            lengths.extend((seen if seen.dtype == torch.bool else seen == 0).sum(1).tolist())
        else:
            lengths.extend([embeds.shape[1]] * len(embeds))

    handle = model.model.language_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield lengths
    finally:
        handle.remove()
