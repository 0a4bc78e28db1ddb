"""How often the answers at a budget agree with those of all tokens: what a budget changes, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from .bootstrap import Interval, TaskOutcomes, retention
from .metrics import matches, token_f1
from .questions import Question
from .recorded_answers import Budget, RecordedAnswer
from .runner import FULL, RunResult

Score = Literal["exact", "f1"]


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
    full = {_place(answer): answer.text for answer in result.answers if answer.method == FULL}
    asked = {(question.task, question.question_id): question for question in result.questions}
    by_budget: dict[Budget, list[RecordedAnswer]] = {}
    for answer in result.answers:
        if answer.method == method:
            by_budget.setdefault(answer.budget, []).append(answer)
    found = []
    for budget, answers in by_budget.items():
        questions = [asked[_place(answer)] for answer in answers]
        pairs = [(answer.text, full[_place(answer)]) for answer in answers]
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


def smallest_budget(found: Sequence[Agreement], wanted: float, score: Score = "exact") -> Agreement | None:
    """The smallest budget that keeps an agreement of `wanted`, as all larger ones do; None if there is none.

    Args:
        found: from `agreements`, most tokens first.
        wanted: a share, up to 1.
        score: which agreement.
    """
    kept = None
    for each in found:
        if getattr(each, score).estimate < wanted:
            break
        kept = each
    return kept


def _place(answer: RecordedAnswer) -> tuple[str, int | str]:
    return answer.task, answer.question_id


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
