"""How much of the full prompt's score a pruned prompt keeps, with a paired bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics import Metric, score


@dataclass(frozen=True)
class TaskOutcomes:
    """Outcomes of the same questions with all tokens and with pruning.

    Attributes:
        metric: what the task is reported in.
        images: (Q,) the image of each question; questions about one image are drawn together.
        full: (Q, 4) outcomes, see `metrics.outcomes`.
        pruned: (Q, 4), or (B, Q, 4) for B budgets, whose scores are averaged.
    """

    metric: Metric
    images: Sequence[str]
    full: NDArray
    pruned: NDArray


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its 95 % interval."""

    estimate: float
    low: float
    high: float


def retention(tasks: Sequence[TaskOutcomes], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over the tasks of the pruned score as a share of the full score.

    Images are drawn with replacement within each task, and both scores are read off the same draw: what makes a
    image hard, pruned or not, cancels.

    Raises:
        ValueError: no task, a task without questions, or a full score of 0, of which nothing can be kept.
    """
    return _interval(*_shares(tasks, resamples, seed))


def retention_lead(
    tasks: Sequence[TaskOutcomes], others: Sequence[TaskOutcomes], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """By how much `tasks` keep more than `others`, the same questions pruned otherwise; both on the same draws.

    Raises:
        ValueError: as `retention`, or other questions.
    """
    if [list(task.images) for task in tasks] != [list(task.images) for task in others]:
        raise ValueError("The two sides hold different questions: compare the same tasks in the same order.")
    one, draws = _shares(tasks, resamples, seed)
    other, other_draws = _shares(others, resamples, seed)
    return _interval(one - other, draws - other_draws)


def _interval(estimate: float, draws: NDArray[np.float64]) -> Interval:
    bounds: NDArray[np.float64] = np.quantile(draws, [0.025, 0.975])
    return Interval(estimate, float(bounds[0]), float(bounds[1]))


def _shares(tasks: Sequence[TaskOutcomes], resamples: int, seed: int) -> tuple[float, NDArray[np.float64]]:
    """The mean share of the tasks, and (resamples,) the same on every draw."""
    if not tasks:
        raise ValueError("There is no task: give the outcomes of at least one.")
    rng = np.random.default_rng(seed)
    estimates, draws = [], []
    for task in tasks:
        full, pruned = _per_image(task.images, task.full)[0], _per_image(task.images, task.pruned)
        whole = float(score(full.sum(0), task.metric)) if len(full) else 0.0
        if whole == 0:
            raise ValueError(
                f"A task of {len(task.images)} questions has a full-prompt score of 0, of which no share can be kept: "
                "leave it out."
            )
        estimates.append(float(score(pruned.sum(1), task.metric).mean()) / whole)
        counts = rng.multinomial(len(full), np.full(len(full), 1 / len(full)), size=resamples)
        base = score(counts @ full, task.metric)
        kept = score(counts @ pruned, task.metric).mean(0)
        # A draw without a single right answer has no share; it counts as nothing lost.
        draws.append(np.divide(kept, base, out=np.ones_like(base), where=base > 0))
    return float(np.mean(estimates)), np.mean(draws, axis=0)


def _per_image(images: Sequence[str], outcomes: NDArray) -> NDArray:
    """(Q, 4) or (B, Q, 4) -> (B, images, 4): the sums of the outcomes of each image's questions."""
    names, owner = np.unique(np.asarray(images), return_inverse=True)
    tables = outcomes.reshape(-1, len(images), 4)
    total: NDArray = np.zeros((len(tables), len(names), 4), dtype=outcomes.dtype)
    for sums, table in zip(total, tables, strict=True):
        np.add.at(sums, owner, table)
    return total
