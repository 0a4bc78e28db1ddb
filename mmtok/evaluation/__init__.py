"""Measured quality: every method on the same model, prompts and budgets.

    questions    files of questions: JSON lines, JSON, CSV; POPE's among them
    checkpoint   the model under test
    selectors    the methods, and the baseline of a smaller image
    encoded      a batch as selectors see it, and the prompts that they make of it
    runner       the whole run, resumable and in parallel, and its answers
    metrics, summary   what the answers are worth, and how often they are those of all tokens

A run is `mmtok eval --model MODEL --questions FILE ... --images FOLDER --budget 64 16`.
"""

from __future__ import annotations

from .runner import FULL, INSTRUCTION, RunResult, RunSettings, methods_named, run
from .summary import compare, lead, legend, summarize, table

__all__ = [
    "FULL",
    "INSTRUCTION",
    "RunResult",
    "RunSettings",
    "compare",
    "lead",
    "legend",
    "methods_named",
    "run",
    "summarize",
    "table",
]
