"""What every benchmark shares: timing several functions side by side, and saying on what they ran."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from mmtok.measuring import machine

RESULTS = Path(__file__).parent / "results"
LOAD_AT_START = machine()["load_average"]


def side_by_side(
    functions: Mapping[str, Callable[[], Any]],
    *,
    warm_up: bool = True,
    rounds: int = 15,
    at_least: int = 3,
    seconds: float = 20.0,
    synchronize: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times functions in turn, so that what disturbs the machine disturbs all of them alike.

    Args:
        functions: what to time.
        warm_up: runs each once before it counts.
        rounds: how often, at most.
        at_least: rounds that are run whatever they take.
        seconds: no further round begins after this.
        synchronize: waits for the device.
        clock: in seconds; `time.process_time` does not count what other programs take.

    Returns:
        Seconds of each function in each round.
    """
    for function in functions.values() if warm_up else ():
        function()
    synchronize()
    times: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= at_least and time.perf_counter() - begin > seconds:
            break
        for name, function in functions.items():
            start = clock()
            function()
            synchronize()
            times[name].append(clock() - start)
    return times


def milliseconds(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each function."""
    return {name: round(1e3 * median(values), 4) for name, values in times.items()}


def times_faster(times: Mapping[str, list[float]], than: str) -> dict[str, float]:
    """How many times faster each function is than one of them: the median over the rounds of the ratio in a round."""
    return {
        name: round(median(base / value for base, value in zip(times[than], values, strict=True)), 3)
        for name, values in times.items()
        if name != than
    }


def save(name: str, results: Mapping[str, Any], *packages: str) -> Path:
    """Writes benchmarks/results/NAME.json: the command, the machine with the versions of packages, and the results.

    Of the machine the load is that at the start. Of absolute paths in the command the names are written.
    """
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.orig_argv[1:]]
    told = {
        "command": shlex.join(["python", *words]),
        "machine": {**machine(*packages), "load_average": LOAD_AT_START},
        **results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return path
