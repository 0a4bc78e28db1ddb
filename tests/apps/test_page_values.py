"""What the page is sent through its API, past its own slider and text box, is refused in a sentence."""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator
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


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions are answered and 32 wait; what is asked then is refused."""
    import gradio as gr
    import httpx

    from mmtok.apps import web

    asked, end = threading.Semaphore(0), threading.Event()

    def answers(*_: Any, **__: Any) -> Iterator[tuple[Any, ...]]:
        asked.release()
        end.wait(60)
        yield web.page_text.headline(None), *("", "", None) * 2, "", ""

    config = types.SimpleNamespace(image_seq_length=576)
    pipe: Any = types.SimpleNamespace(model=types.SimpleNamespace(config=config, name_or_path="org/model"))
    monkeypatch.setattr(web, "warm_up", lambda *_: None)
    monkeypatch.setattr(web, "EncodedImageCache", lambda *_: None)
    monkeypatch.setattr(web, "answers", answers)
    _, address, _ = web.launch(pipe, embedded=False, prevent_thread_lock=True, quiet=True)

    def ask(number: int) -> httpx.Response:
        data = {"data": [None, "Is there a dog?", 4], "fn_index": 0, "session_hash": f"s{number}"}
        return httpx.post(f"{address}gradio_api/queue/join", json=data, timeout=60)

    try:
        assert [ask(number).status_code for number in range(2)] == [200, 200]
        assert all(asked.acquire(timeout=60) for _ in range(2))
        found = [ask(number) for number in range(2, 40)]
        assert [each.status_code for each in found] == [200] * 32 + [503] * 6
        assert "Queue is full" in found[-1].text
    finally:
        end.set()
        gr.close_all(verbose=False)
