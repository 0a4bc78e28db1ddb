"""The results of a run as plain data: every metric by method, budget and task, with retention intervals; and, without
labels, how often the answers at a budget agree with those of all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .metrics import (
    Interval,
    Metric,
    TaskOutcomes,
    letter_of,
    matches,
    metric_of,
    metric_reason,
    outcomes,
    retention,
    retention_lead,
    score,
    token_f1,
)
from .questions import Question
from .runner import FULL, Budget, RecordedAnswer, RunResult

# Behind the decimal point, of shares.
_DIGITS = 4


def summarize(result: RunResult, *, resamples: int = 2000) -> dict[str, Any]:
    """Scores the answers of a run, with a bootstrap of so many resamples.

    Returns:
        {"tasks": {task: {"metric", "reason", "questions", "images"}}, "cells": [cell, ...]}; a cell holds `method`,
        `budget`, `vision_tokens` (a mean over the questions), the `metrics` of each task, and for pruned prompts the
        `retention` of each task and of their mean, each with `estimate`, `low` and `high`. Tasks that the model
        answers wrong altogether with the full prompt have no retention and are left out of the mean.
    """
    tables = _Tables(result)
    cells = list(dict.fromkeys((answer.method, answer.budget) for answer in result.answers))
    return {
        "tasks": {
            task: {
                "metric": metric_of([question.label for question in questions]),
                "reason": metric_reason([question.label for question in questions]),
                "questions": len(questions),
                "images": len({question.image for question in questions}),
            }
            for task, questions in tables.by_task.items()
        },
        "cells": [_cell(method, budget, tables, resamples) for method, budget in cells],
    }


def compare(
    result: RunResult, methods: Sequence[str], budgets: Sequence[int], *, reference: str, resamples: int = 2000
) -> list[dict[str, Any]]:
    """Methods over several budgets at once: mean retention over tasks and budgets.

    Returns:
        For each method `method`, `retention`, and `reference_lead`, by how much `reference` keeps more; each with
        `estimate`, `low` and `high`.
    """
    tables = _Tables(result)
    base = list(tables.outcomes(reference, budgets).values())
    rows = []
    for method in methods:
        own = list(tables.outcomes(method, budgets).values())
        kept, lead = retention(own, resamples=resamples), retention_lead(base, own, resamples=resamples)
        rows.append({"method": method, "retention": _rounded(kept), "reference_lead": _rounded(lead)})
    return rows


def lead(
    runs: Sequence[tuple[RunResult, Sequence[int]]], method: str, other: str, *, resamples: int = 2000
) -> dict[str, float]:
    """By how much `method` keeps more than `other`, a mean over the tasks of all `runs`, each over its own budgets.

    Returns:
        `estimate`, `low` and `high`, as shares of the full score.
    """

    def outcomes(name: str) -> list[TaskOutcomes]:
        return [task for result, budgets in runs for task in _Tables(result).outcomes(name, budgets).values()]

    return _rounded(retention_lead(outcomes(method), outcomes(other), resamples=resamples))


class _Tables:
    """The answers of a run, by question."""

    def __init__(self, result: RunResult) -> None:
        self.by_task: dict[str, list[Question]] = {}
        for question in result.questions:
            self.by_task.setdefault(question.task, []).append(question)
        self._answers = {answer.key: answer for answer in result.answers}

    def answers(self, method: str, budget: Budget, task: str) -> list[RecordedAnswer]:
        """In the order of the task's questions."""
        return [self._answers[method, budget, task, question.question_id] for question in self.by_task[task]]

    def texts(self, method: str, budget: Budget, task: str) -> list[str]:
        """The same answers as they are compared with the labels: of multiple choice the letter."""
        return [
            letter_of(answer.text, question.choices) if question.choices else answer.text
            for answer, question in zip(self.answers(method, budget, task), self.by_task[task], strict=True)
        ]

    def outcomes(self, method: str, budgets: Sequence[Budget]) -> dict[str, TaskOutcomes]:
        """For each task whose full-prompt score is not 0, the outcomes at all `budgets`."""
        found = {}
        for task, questions in self.by_task.items():
            labels = [question.label for question in questions]
            full = self._table(FULL, None, task, labels)
            pruned = np.stack([self._table(method, budget, task, labels) for budget in budgets])
            if score(full.sum(0), metric_of(labels)) > 0:
                images = [question.image for question in questions]
                found[task] = TaskOutcomes(metric_of(labels), images, full, pruned)
        return found

    def _table(self, method: str, budget: Budget, task: str, labels: Sequence[str]) -> NDArray[np.int64]:
        return outcomes(self.texts(method, budget, task), labels)


def _cell(method: str, budget: Budget, tables: _Tables, resamples: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    tokens: list[int] = []
    for task, questions in tables.by_task.items():
        given = tables.answers(method, budget, task)
        tokens += [answer.vision_tokens for answer in given]
        labels = [question.label for question in questions]
        # All metrics of yes/no questions, the accuracy of others.
        names = ("accuracy",) if metric_of(labels) == "accuracy" else get_args(Metric)
        counts = outcomes(tables.texts(method, budget, task), labels).sum(0)
        metrics[task] = {name: round(float(score(counts, name)), _DIGITS) for name in names}
    cell = {
        "method": method,
        "budget": budget,
        "vision_tokens": round(sum(tokens) / len(tokens), 2),
        "metrics": metrics,
    }
    compared = tables.outcomes(method, [budget]) if method != FULL else {}
    if compared:
        shares = {task: _rounded(retention([outcome], resamples=resamples)) for task, outcome in compared.items()}
        cell["retention"] = {**shares, "mean": _rounded(retention(list(compared.values()), resamples=resamples))}
    return cell


def table(results: dict[str, Any]) -> str:
    """One line for each method and budget: tokens read, the metric of every task in percent, mean retention."""
    tasks = results["tasks"]
    lines = [["method", "budget", "tokens", *(f"{task} {tasks[task]['metric']}" for task in tasks), "kept"]]
    for cell in results["cells"]:
        scores = [f"{100 * cell['metrics'][task][tasks[task]['metric']]:.1f}" for task in tasks]
        budget = "" if cell["method"] == FULL else str(cell["budget"])
        mean = cell.get("retention", {}).get("mean")
        kept = f"{100 * mean['estimate']:.1f} [{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]" if mean else ""
        lines.append([cell["method"], budget, f"{cell['vision_tokens']:.1f}", *scores, kept])
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join("  ".join([name.ljust(first), *map(str.rjust, cells, others)]).rstrip() for name, *cells in lines)


def legend(results: dict[str, Any]) -> list[str]:
    """What the columns of `table` are, a line each, and the metric of every task."""
    return [
        "tokens: vision tokens that the language model read, a mean over the questions.",
        *(
            f"{task}: {found['reason']}, in %. Questions: {found['questions']}; images and videos: {found['images']}."
            for task, found in results["tasks"].items()
        ),
        "kept: the score as a share of that with all tokens, a mean over the tasks in %, with the 95 % interval of a "
        "bootstrap over the images.",
    ]


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in asdict(interval).items()}


@dataclass(frozen=True)
class Agreement:
    """The answers at one budget beside those of all tokens.

    Attributes:
        budget: tokens kept of each crop, or a share of them.
        vision_tokens: how many the language model read, a mean over the questions.
        exact: the share of answers that are the same, but for case, articles and the full stop.
        f1: F1 of the words that the two answers share, a mean over the questions.
        changed: the questions whose answers are not the same.
    """

    budget: Budget
    vision_tokens: float
    exact: Interval
    f1: Interval
    changed: tuple[Question, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        found: dict[str, Any] = {name: asdict(getattr(self, name)) for name in ("exact", "f1")}
        names = [{"image": question.image, "question": question.text} for question in self.changed]
        return {"budget": self.budget, "vision_tokens": self.vision_tokens, **found, "changed": names}


def agreements(result: RunResult, method: str, *, resamples: int = 2000) -> list[Agreement]:
    """Compares every budget of a method of a run with all tokens, most tokens first.

    Intervals are those of a bootstrap over the images. Where no answer changed, in which a bootstrap sees no doubt,
    the lower end is that of the rule of three: 1 - 3 / images.
    """
    full = {answer.key[2:]: answer.text for answer in result.answers if answer.method == FULL}
    asked = {(question.task, question.question_id): question for question in result.questions}
    by_budget: dict[Budget, list[RecordedAnswer]] = {}
    for answer in result.answers:
        if answer.method == method:
            by_budget.setdefault(answer.budget, []).append(answer)
    found = []
    for budget, answers in by_budget.items():
        questions = [asked[answer.key[2:]] for answer in answers]
        pairs = [(answer.text, full[answer.key[2:]]) for answer in answers]
        same = [matches(*pair) for pair in pairs]
        images = [question.image for question in questions]
        found.append(
            Agreement(
                budget,
                sum(answer.vision_tokens for answer in answers) / len(answers),
                _mean(same, images, resamples),
                _mean([token_f1(*pair) for pair in pairs], images, resamples),
                tuple(question for question, agrees in zip(questions, same, strict=True) if not agrees),
            )
        )
    return sorted(found, key=lambda each: -each.vision_tokens)


def smallest_budget(found: Sequence[Agreement], wanted: float, score: str = "exact") -> Agreement | None:
    """The smallest budget with a `score` ("exact" or "f1") of `wanted`, which all larger ones have too, or None."""
    kept = None
    for each in found:
        if getattr(each, score).estimate < wanted:
            break
        kept = each
    return kept


def _mean(values: Sequence[float], images: Sequence[str], resamples: int) -> Interval:
    """The mean of values from 0 to 1 with its interval; values about one image are drawn together."""
    table = np.zeros((len(values), 4))
    table[:, 0], table[:, 3] = values, 1 - np.asarray(values, dtype=float)
    full = np.zeros_like(table)
    full[:, 0] = 1
    found = retention([TaskOutcomes("accuracy", images, full, table)], resamples=resamples)
    if found.estimate < 1:
        return found
    return replace(found, low=max(0.0, 1 - 3 / len(set(images))))
