"""What the page says, without Gradio and without a browser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmtok.apps import page_text
from mmtok.apps.answering import Answer, Explanation
from mmtok.images import cut_off

CLIP = SimpleNamespace(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_center_crop=True)


def explained(vision_tokens: int, total: int = 144) -> Explanation:
    return Explanation("?", vision_tokens, 14 + vision_tokens, 14 + total, vision_tokens, 0.9, selection=None)


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        (8, "8 of 144 vision tokens, 18x fewer"),
        (1, "1 of 144 vision tokens, 144x fewer"),
        (144, "144 of 144 vision tokens, all of them"),
    ],
)
def test_the_headline(kept, text) -> None:
    assert f">{text}<" in page_text.headline(explained(kept))


def test_a_stale_headline_says_so_and_no_number() -> None:
    assert page_text.STALE in page_text.headline(explained(8), stale=True)
    assert "144" not in page_text.headline(explained(8), stale=True)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((336, 336), ""),
        ((600, 400), "middle square of 400 x 400 pixels alone: 100 pixels are cut off on the left and on the right."),
        ((400, 402), "middle square of 400 x 400 pixels alone: 1 pixel is cut off at the top and at the bottom."),
    ],
)
def test_what_a_centre_crop_cuts_off(size, text) -> None:
    assert cut_off(size, CLIP).endswith(text)
    assert bool(cut_off(size, CLIP)) == bool(text)


def test_tiles_and_padding_cut_nothing_off() -> None:
    tiles = SimpleNamespace(**vars(CLIP), image_grid_pinpoints=[[672, 672]])
    whole = SimpleNamespace(size={"height": 384, "width": 384}, do_center_crop=None)
    assert cut_off((600, 400), tiles) == cut_off((600, 400), whole) == ""


def test_what_a_model_or_a_reader_writes_is_no_html() -> None:
    answers = [Answer("?", None, 158, 158, 144, 1.0, None, "<script>", 0.0123)]
    assert "&lt;script&gt;" in page_text.budget_table(answers)
    assert "&lt;script&gt;" in page_text.answer("<script>")
    assert "&lt;b&gt;" in page_text.heading("https://example.com", "<b>")


def test_the_table_of_budgets() -> None:
    answers = [
        Answer("?", None, 158, 158, 144, 1.0, None, "yes", 0.0123),
        Answer("?", 1, 15, 158, 1, 0.558, None, "no", 0.009),
    ]
    assert "<td>all 144</td><td>yes</td><td>100.0%</td><td>12 ms</td>" in page_text.budget_table(answers)
    assert "<td>1</td><td>no</td><td>55.8%</td><td>9 ms</td>" in page_text.budget_table(answers)
