"""POPE's metrics, retention and its interval, on cases worked by hand."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtok.evaluation.metrics import (
    Metric,
    TaskOutcomes,
    matches,
    metric_of,
    outcomes,
    retention,
    retention_lead,
    score,
    yes_or_no,
)


def test_popes_metrics_on_ten_answers() -> None:
    labels = ["yes"] * 5 + ["no"] * 5
    answers = ["Yes", "yes", "Yes, there is.", "No", "no", "No", "There is not one.", "no", "Yes", "It is red."]
    counts = outcomes(answers, labels).sum(0)
    assert counts.tolist() == [3, 2, 3, 2]
    found = {name: float(score(counts, name)) for name in get_args(Metric)}
    expected = {"accuracy": 0.6, "precision": 0.6, "recall": 0.6, "f1": 0.6, "yes_ratio": 0.5}
    assert found == pytest.approx(expected)


def test_an_empty_answer_is_wrong_whatever_is_asked() -> None:
    assert outcomes(["", ""], ["yes", "no"]).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert score(outcomes(["", "yes"], ["yes", "yes"]).sum(0), "accuracy") == 0.5


def test_nothing_said_yes_has_no_precision_and_an_f1_of_zero() -> None:
    counts = outcomes(["no", "no"], ["yes", "no"]).sum(0)
    found = {name: float(score(counts, name)) for name in get_args(Metric)}
    assert found == {"accuracy": 0.5, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("No", "no"),
        ("no", "no"),
        ("No, there is no dog.", "no"),
        ("There is not a dog in it", "no"),
        ("Yes. No doubt.", "yes"),  # the first sentence counts
        ("Nothing", "yes"),  # whole words count, in POPE's own spelling
        ("NO", "yes"),
        ("", None),
        (" \n", None),
    ],
)
def test_answers_are_read_as_popes_evaluation_reads_them(answer: str, expected: str | None) -> None:
    assert yes_or_no(answer) == expected


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [("Red.", "red", True), ("a red circle", "red circle", True), ("red circle", "red", False), ("3", "3", True)],
)
def test_one_word_answers_match_but_for_case_article_and_full_stop(answer: str, label: str, expected: bool) -> None:
    assert matches(answer, label) is expected


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_sums_of_outcomes_score_as_the_pairs_do(pairs: list[tuple[bool, bool]]) -> None:
    answers = ["yes" if said else "no" for said, _ in pairs]
    labels = ["yes" if truth else "no" for _, truth in pairs]
    total = outcomes(answers, labels).sum(0)
    hits, missed = sum(said and truth for said, truth in pairs), sum(said != truth for said, truth in pairs)
    assert float(score(total, "f1")) == pytest.approx(2 * hits / (2 * hits + missed) if hits else 0.0)
    assert float(score(total, "accuracy")) == pytest.approx(1 - missed / len(pairs))


def task(full: str, pruned: str, images: list[int] | None = None, metric: str = "accuracy") -> TaskOutcomes:
    """Outcomes of questions whose label is yes, one letter each: y for a hit."""
    labels = ["yes"] * len(full)
    tables = [outcomes(["yes" if letter == "y" else "no" for letter in letters], labels) for letters in (full, pruned)]
    return TaskOutcomes(metric, list(map(str, images or range(len(full)))), *tables)  # type: ignore[arg-type]


def test_retention_is_a_mean_over_tasks_of_shares() -> None:
    # 3 of 4 kept, and 1 of 2 kept: (0.75 + 0.5) / 2.
    found = retention([task("yyyyn", "yyynn"), task("yyn", "ynn")])
    assert found.estimate == pytest.approx(0.625)
    assert found.low <= found.estimate <= found.high


def test_the_interval_is_paired_and_closes_where_nothing_changes() -> None:
    same = retention([task("ynynynyn", "ynynynyn")])
    assert (same.estimate, same.low, same.high) == (1, 1, 1)


def test_the_interval_has_the_width_of_the_binomial() -> None:
    # All right in full, half right pruned: the share of 400 fair coins, 0.5 +- 1.96 * 0.025.
    found = retention([task("y" * 400, "yn" * 200)], resamples=4000)
    assert found.low == pytest.approx(0.451, abs=0.005)
    assert found.high == pytest.approx(0.549, abs=0.005)


def test_questions_about_one_image_are_drawn_together() -> None:
    # Four questions an image, answered alike: 100 coins instead of 400, so twice the width.
    images = [number // 4 for number in range(400)]
    found = retention([task("y" * 400, "yyyynnnn" * 50, images)], resamples=4000)
    assert found.high - found.low == pytest.approx(2 * 0.098, abs=0.02)


def test_retention_is_seeded() -> None:
    tasks = [task("yyyyyyyy", "ynynyyyn")]
    assert retention(tasks, seed=3) == retention(tasks, seed=3) != retention(tasks, seed=4, resamples=50)


def test_several_budgets_are_averaged() -> None:
    tasks = [task("yyyy", "yyyn"), task("yyyy", "ynnn")]
    both = TaskOutcomes("accuracy", tasks[0].images, tasks[0].full, np.stack([each.pruned for each in tasks]))
    assert retention([both]).estimate == pytest.approx(0.5)


def test_a_lead_is_measured_on_the_same_draws() -> None:
    better, worse = task("y" * 200, "yyyn" * 50), task("y" * 200, "yynn" * 50)
    lead = retention_lead([better], [worse])
    assert lead.estimate == pytest.approx(0.25)
    # Every fourth question makes the difference, a binomial of 0.25; drawn apart the interval would be wider.
    assert (lead.high - lead.low) / 2 == pytest.approx(1.96 * (0.25 * 0.75 / 200) ** 0.5, rel=0.1)
    assert retention_lead([better], [better]).high == 0
    with pytest.raises(ValueError, match="different questions"):
        retention_lead([better], [task("yy", "yy")])


@pytest.mark.parametrize(("tasks", "message"), [([], "no task"), ([task("nn", "yn")], "full-prompt score of 0")])
def test_what_has_no_share_is_refused(tasks: list[TaskOutcomes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retention(tasks)


def test_f1_of_nothing_is_zero() -> None:
    assert np.array_equal(score(np.zeros((2, 4), dtype=np.int64), "f1"), [0, 0])


def test_without_a_yes_among_the_labels_the_metric_is_accuracy() -> None:
    labels = ["no", "no", "no", "no"]
    assert metric_of(labels) == "accuracy"
    assert score(outcomes(["no", "No.", "yes", ""], labels).sum(0), metric_of(labels)) == 0.5
    assert metric_of([*labels, "yes"]) == "f1"
