"""What the page says, without Gradio and without a browser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

from mmtok.apps import page_text
from mmtok.apps.answering import Answer, Explanation
from mmtok.visuals import cut_off

CLIP = SimpleNamespace(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_center_crop=True)
KEPT = SimpleNamespace(words=("dog",), word_ids=(5,))


def explained(vision_tokens: int, total: int = 144) -> Explanation:
    return Explanation("?", vision_tokens, 14 + vision_tokens, 14 + total, vision_tokens, 0.9, selection=KEPT)


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


def test_a_headline_says_what_else_there_is_to_say() -> None:
    assert f">{page_text.STALE}<" in page_text.headline(None, page_text.STALE)
    assert "&lt;script&gt;" in page_text.headline(None, "<script>")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((336, 336), ""),
        ((600, 400), "middle square of 400 x 400 pixels alone: 100 pixels are cut off on the left and on the right."),
        ((400, 402), "middle square of 400 x 400 pixels alone: 1 pixel is cut off at the top and at the bottom."),
    ],
)
def test_what_a_centre_crop_cuts_off(size, text) -> None:
    told = cut_off(Image.new("RGB", size), CLIP)
    assert told.endswith(text)
    assert bool(told) == bool(text)


def test_tiles_and_padding_cut_nothing_off() -> None:
    tiles = SimpleNamespace(**vars(CLIP), image_grid_pinpoints=[[672, 672]])
    whole = SimpleNamespace(size={"height": 384, "width": 384}, do_center_crop=None)
    image = Image.new("RGB", (600, 400))
    assert cut_off(image, tiles) == cut_off(image, whole) == ""


def test_below_the_drawing_coverage_is_in_plain_words_with_the_words_that_count() -> None:
    told = page_text.below(explained(8), "", "")
    assert "The kept tokens stand for 90% of the question and the image (coverage)." in told
    assert "Words of the question that they cover: dog." in told
    assert "hatched" not in told
    assert "hatched" in page_text.below(explained(8), "100 pixels are cut off.", "")


def test_a_long_answer_is_in_ordinary_type() -> None:
    assert 'class="answer short"' in page_text.answer("yes")
    assert 'class="answer"' in page_text.answer("The image shows a cheetah in front of a dark background.")


ANSWERS = [
    Answer("?", None, 158, 158, 144, 1.0, None, "yes", 0.0123),
    Answer("?", 1, 15, 158, 1, 0.558, None, "<script>", 0.009),
    Answer("?", 4, 18, 158, 4, 0.7, None, "yes", 1.5),
]


def test_several_budgets_side_by_side() -> None:
    cards = page_text.budget_cards(ANSWERS, [Image.new("RGB", (8, 8))] * 3).split('class="card"')[1:]
    assert [card.split("</b>")[0].split("<b>")[1] for card in cards] == [
        "all 144 vision tokens",
        "1 vision token",
        "4 vision tokens",
    ]
    told = [card.split('class="note">')[1].split("<")[0] for card in cards]
    assert told == [
        "coverage 100% · 12 ms",
        "coverage 56% · 9 ms · another answer",
        "coverage 70% · 1,500 ms · same answer",
    ]
    assert all("data:image/jpeg;base64," in card for card in cards)


def test_what_a_model_or_a_reader_writes_is_no_html() -> None:
    drawings = [Image.new("RGB", (8, 8))] * 3
    for told in (
        page_text.budget_cards(ANSWERS, drawings),
        page_text.answer("<script>"),
        page_text.heading("<script>", "https://example.com/<script>"),
        page_text.note("<script>"),
    ):
        assert "<script>" not in told
        assert "&lt;script&gt;" in told
