"""What the page is sent through its API, past its own slider and text box, is refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'mmtok[web]'")

IMAGE = Image.new("RGB", (24, 24))
BUDGETS = [None, "x", "", "4", 0, -1, 1.5, float("nan"), float("inf"), True, [], [4], {}, {"a": 1}]
QUESTIONS = [None, "", "  ", 4, [], {}, "\ud800", "x" * 20_001]
CANVASES = [None, {}, {"composite": None}, Image.new("RGB", (5001, 5000)), Image.new("RGB", (1000, 4))]


def refused(canvas: Any, question: Any, budget: Any) -> str:
    import gradio as gr

    from mmtok.apps.page_answers import CLEARED, answers

    shown = answers(None, None, canvas, question, budget, max_new_tokens=1)  # type: ignore[arg-type]
    assert next(shown) == CLEARED
    assert next(shown) == CLEARED
    with pytest.raises(gr.Error) as error:
        next(shown)
    return str(error.value.message)


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
def test_budgets(budget: Any) -> None:
    assert "udget is " in refused(IMAGE, "Is there a dog?", budget)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda value: repr(value)[:20])
def test_questions(question: Any) -> None:
    assert "question" in refused(IMAGE, question, 4)


@pytest.mark.parametrize("canvas", CANVASES, ids=lambda value: repr(value)[:20])
def test_canvases(canvas: Any) -> None:
    assert "image" in refused(canvas, "Is there a dog?", 4)
