"""Which releases of transformers and torch the compatibility run covers."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

# Releases that the project names as supported, whatever else is covered.
NAMED = ("4.57.6", "5.1.0", "5.17.0", "5.23.0")
TORCH = "2.13.0"
OLDEST_TORCH = "2.6.0"


@dataclass(frozen=True)
class Pair:
    """One environment."""

    transformers: str
    torch: str = TORCH

    @property
    def name(self) -> str:
        return f"transformers-{self.transformers}-torch-{self.torch}"


def covered(releases: list[str]) -> list[Pair]:
    """The first and the last patch release of 4.57 and of each fifth minor of 5.x, the newest, and the named ones.

    The oldest torch runs with the oldest transformers alone.
    """
    minors: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for release in releases:
        if re.fullmatch(r"\d+\.\d+\.\d+", release):
            number = tuple(map(int, release.split(".")))
            if number >= (4, 57):
                minors.setdefault((number[0], number[1]), []).append(number)
    chosen = {tuple(map(int, name.split("."))) for name in NAMED} | {max(max(group) for group in minors.values())}
    for (major, minor), group in minors.items():
        if (major, minor) == (4, 57) or (major >= 5 and minor % 5 == 0):
            chosen |= {min(group), max(group)}
    ordered = [".".join(map(str, number)) for number in sorted(chosen)]
    return [Pair(NAMED[0], OLDEST_TORCH), *map(Pair, ordered)]


def released() -> list[str]:
    """Every release of transformers that pip can see."""
    asked = [sys.executable, "-m", "pip", "index", "versions", "transformers", "--disable-pip-version-check"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    line = next(line for line in told.splitlines() if line.startswith("Available versions:"))
    return [name.strip() for name in line.partition(":")[2].split(",")]
