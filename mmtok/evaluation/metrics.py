"""Metrics of answers, and how much of them a pruned prompt keeps, with a paired bootstrap interval.

POPE's metrics (Li et al., EMNLP 2023, arXiv 2305.10355), and exact match for answers of one word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["accuracy", "precision", "recall", "f1", "yes_ratio"]


def yes_or_no(answer: str) -> Literal["yes", "no"] | None:
    """Reads an answer as POPE's evaluation does: "no" where the first sentence says no or not, else "yes".

    An empty answer, which POPE's evaluation takes for "yes", is neither: None.
    """
    if not answer.strip():
        return None
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def matches(answer: str, label: str) -> bool:
    """Whether an answer of one word or phrase is the label, but for case, articles, spaces and the full stop."""
    return _plain(answer) == _plain(label)


def letter_of(answer: str, choices: Sequence[str]) -> str:
    """The letter of the choice that an answer names, by itself, by its letter or by both; "" for none.

    "B", "(b)", "B. a dog" and "a dog" are all the second of ["a cat", "a dog"].
    """
    plain = [_plain(choice) for choice in choices]
    if _plain(answer) in plain:
        return chr(65 + plain.index(_plain(answer)))
    found = re.match(r"\(?([A-Za-z])(?:[).:,]|\s*$)", answer.strip())
    letter = found[1].upper() if found else ""
    return letter if letter and ord(letter) - 65 < len(choices) else ""


def token_f1(answer: str, expected: str) -> float:
    """F1 of the words that two answers share, each as often as it is in both; 1 where neither has one (as in SQuAD).

    Case, punctuation and articles do not count.
    """
    one, other = (
        Counter(word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the"))
        for text in (answer, expected)
    )
    if not one or not other:
        return float(one == other)
    return 2 * (one & other).total() / (one.total() + other.total())


def outcomes(answers: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Per-question outcomes that metrics are sums of: (questions, 4), true and false positives, then negatives.

    An answer to a yes/no question that is neither counts as wrong. Questions that are not of yes/no kind count a match
    as a true positive and a miss as a false negative, so that `score(..., "accuracy")` is exact match.
    """
    table: NDArray[np.int64] = np.zeros((len(answers), 4), dtype=np.int64)
    yes_no = set(labels) <= {"yes", "no"}
    for row, answer, label in zip(table, answers, labels, strict=True):
        if yes_no:
            said = yes_or_no(answer) or ("no" if label == "yes" else "yes")
            row[{("yes", "yes"): 0, ("yes", "no"): 1, ("no", "no"): 2, ("no", "yes"): 3}[said, label]] = 1
        else:
            row[0 if matches(answer, label) else 3] = 1
    return table


def score(counts: NDArray, metric: Metric) -> NDArray:
    """(..., 4) sums of `outcomes` -> (...) the metric, 0 where nothing was counted."""
    positive, false_positive, negative, false_negative = np.moveaxis(counts, -1, 0)
    right, total = {
        "accuracy": (positive + negative, counts.sum(-1)),
        "precision": (positive, positive + false_positive),
        "recall": (positive, positive + false_negative),
        "f1": (2 * positive, 2 * positive + false_positive + false_negative),
        "yes_ratio": (positive + false_positive, counts.sum(-1)),
    }[metric]
    return np.divide(right, total, out=np.zeros(np.shape(total)), where=total > 0)


def metric_of(labels: Sequence[str]) -> Metric:
    """The metric of a task: F1 for yes/no questions, as in the paper, else accuracy.

    Without a "yes" among the labels F1 would be 0 whatever the answers are.
    """
    return "f1" if "yes" in labels and set(labels) <= {"yes", "no"} else "accuracy"


def metric_reason(labels: Sequence[str]) -> str:
    """Which metric a task has, and why."""
    if metric_of(labels) == "f1":
        return 'F1 of "yes", as all labels are yes or no'
    others = sorted(label for label in labels if label not in ("yes", "no"))
    some = f"{len(others)} of {len(labels)} labels are" if len(others) < len(labels) else "the labels are"
    why = f"{some} neither yes nor no, such as {others[0]!r}" if others else "no label is yes"
    return f"accuracy, the share of answers that are the label, as {why}"


def _plain(text: str) -> str:
    return re.sub(r"^(a|an|the) ", "", text.strip().rstrip(".").strip().lower())


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
    np.add.at(total, (slice(None), owner), tables)
    return total
