"""Where and with which versions something was measured: the one description that every result file carries."""

from __future__ import annotations

import os
import platform
import time
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
