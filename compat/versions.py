"""Which releases of transformers and torch the compatibility run covers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

# Releases that the project names as supported, whatever else is covered.
OLDEST = "4.57.1"
NAMED = ("4.57.6", "5.1.0", "5.5.0", "5.10.4", "5.17.0", "5.23.0", "5.24.0")
TORCH = "2.13.0"
OLDEST_TORCH = (2, 6)

Release = tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """One environment."""

    transformers: str
    torch: str = TORCH

    @property
    def name(self) -> str:
        return f"transformers-{self.transformers}-torch-{self.torch}"


def covered(transformers: Iterable[str], torch: Iterable[str]) -> list[Pair]:
    """The environments of a run, of the releases that there are.

    With one release of torch, the first and the last patch release of transformers 4.57 and of each fifth minor of 5.x,
    the newest, and the named ones; with the newest transformers, the last patch release of each minor of torch; and the
    oldest torch with the oldest named transformers.
    """
    minors = _by_minor(transformers, (4, 57))
    newest = max(max(group) for group in minors.values())
    chosen = {_release(name) for name in NAMED} | {newest}
    for (major, minor), group in minors.items():
        if (major, minor) == (4, 57) or (major >= 5 and minor % 5 == 0):
            chosen |= {min(group), max(group)}
    torches = [_name(max(group)) for _, group in sorted(_by_minor(torch, OLDEST_TORCH).items())]
    pairs = [Pair(_name(number)) for number in sorted(chosen)]
    pairs += [Pair(_name(newest), name) for name in torches if name != TORCH]
    return [*pairs, Pair(NAMED[0], torches[0])]


def released(package: str) -> list[str]:
    """Every release of a package that pip can see."""
    asked = [sys.executable, "-m", "pip", "index", "versions", package, "--disable-pip-version-check"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    line = next(line for line in told.splitlines() if line.startswith("Available versions:"))
    return [name.strip() for name in line.partition(":")[2].split(",")]


def _by_minor(names: Iterable[str], oldest: tuple[int, int]) -> dict[tuple[int, int], list[Release]]:
    """The final releases from a minor on, builds for one kind of machine (`+cpu`) as the release they are of."""
    minors: dict[tuple[int, int], list[Release]] = {}
    for name in {name.partition("+")[0] for name in names}:
        if re.fullmatch(r"\d+\.\d+\.\d+", name) and _release(name)[:2] >= oldest:
            number = _release(name)
            minors.setdefault((number[0], number[1]), []).append(number)
    return minors


def _release(name: str) -> Release:
    return tuple(map(int, name.split(".")))


def _name(number: Release) -> str:
    return ".".join(map(str, number))
