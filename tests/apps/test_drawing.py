"""Drawings: what is read and what is not told apart on any image, crops in their places, texts as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mmtok.apps.answering import Answer, Explanation
from mmtok.apps.drawing import (
    CUT_OFF,
    READ,
    TEXT_COLOR,
    VISION_COLOR,
    gain_color,
    kept_figure,
    overlay,
)
from mmtok.apps.seen import Seen
from mmtok.hub.selection import ImageSelection

PATCH, SIDE = 6, 48  # pixels of a patch, and of a patch in a drawing with this scale
SCALE = SIDE // PATCH


def selection(places: list[tuple[int, int, int]], text: list[float], vision: list[float]) -> ImageSelection:
    """Kept tokens at (crop, row, column) with their gains, picked in this order."""
    crop, row, column = torch.tensor(places).T
    order, gains = torch.arange(len(places)), (torch.tensor(text), torch.tensor(vision))
    return ImageSelection(0, 99, order, crop, row, column, order, *gains, 0.5, 1.0, 1.0)


def of_color(color: tuple[int, int, int]) -> Seen:
    return Seen((Image.new("RGB", (24, 24), color),), PATCH)


def white_page() -> Image.Image:
    """Black lines of text on white."""
    page = Image.new("RGB", (120, 120), "white")
    draw = ImageDraw.Draw(page)
    for line in range(6):
        draw.text((6, 6 + 18 * line), "the quick brown fox", fill="black", font_size=12)
    return page


def photo() -> Image.Image:
    """Every colour from dark to bright, with grain."""
    rng = np.random.default_rng(0)
    ramps = np.stack(np.meshgrid(np.linspace(10, 230, 120), np.linspace(20, 200, 120)), -1)
    pixels = np.concatenate((ramps, ramps.mean(-1, keepdims=True)), -1) + rng.normal(0, 12, (120, 120, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Relative luminance of WCAG 2, 0 to 1."""
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Contrast ratio of WCAG 2 of the mean luminances, 1 to 21."""
    low, high = sorted((float(first.mean()), float(second.mean())))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("image", "least"),
    [(white_page(), 4.5), (photo(), 2.5), (Image.new("RGB", (120, 120), (12, 14, 18)), 1.0)],
    ids=["white page", "photo", "night"],
)
def test_read_and_unread_stand_out_from_each_other(image: Image.Image, least: float) -> None:
    """Every second patch is read. The outline has the 3:1 that WCAG asks of graphics, against all that is not read."""
    places = [(0, row, column) for row in range(20) for column in range(row % 2, 20, 2)]
    kept = selection(places, [0.1] * 200, [0.1] * 200)
    drawn = luminance(np.asarray(overlay(Seen((image,), PATCH), kept, scale=4)).astype(float))
    read = np.add.outer(np.arange(20), np.arange(20)) % 2 == 0
    blocks = drawn.reshape(20, 24, 20, 24).swapaxes(1, 2)
    inner = blocks[:, :, 4:-4, 4:-4]
    assert contrast(inner[read], inner[~read]) >= least
    [outline] = luminance(np.array([READ]))
    assert (outline + 0.05) / (inner[~read].max() + 0.05) >= 3


def test_an_outline_runs_between_what_is_read_and_what_is_not() -> None:
    """Worked by hand: of two patches side by side the edge between them is not drawn, all others are."""
    drawn = overlay(of_color((90, 90, 90)), selection([(0, 1, 1), (0, 1, 2)], [0.1] * 2, [0.1] * 2), scale=SCALE)
    top, middle, left, seam, right = SIDE, SIDE * 3 // 2, SIDE, 2 * SIDE, 3 * SIDE - 1
    assert drawn.getpixel((middle, top)) == drawn.getpixel((left, middle)) == drawn.getpixel((right, middle)) == READ
    assert drawn.getpixel((seam, middle)) == drawn.getpixel((seam - 1, middle)) == (90, 90, 90)
    assert drawn.getpixel((middle, SIDE // 2)) == (36, 36, 36)


def test_what_was_cut_off_is_hatched_and_outlined() -> None:
    """6 pixels on each side of a crop of 24: outlined, and drawn beside the crop for every budget."""
    crop = Image.new("RGB", (24, 24), (90, 90, 90))
    seen = Seen((crop,), PATCH, whole=(Image.new("RGB", (36, 24), (90, 90, 90)), 6, 0))
    for kept in (None, selection([(0, 0, 0)], [0.1], [0.1])):
        drawn = overlay(seen, kept, scale=SCALE)
        assert drawn.size == (36 * SCALE, 24 * SCALE)
        beside = np.asarray(drawn)[:, : 6 * SCALE]
        outline = np.concatenate((beside[0], beside[-1], beside[:, 0], beside[:, -1]))
        assert (outline == CUT_OFF).all()
        assert 0.05 < (beside[4:-4, 4:-4] == CUT_OFF).all(-1).mean() < 0.5
    inside = np.asarray(drawn)[1:-1, 6 * SCALE + 1 : 30 * SCALE - 1]
    assert not (inside == CUT_OFF).all(-1).any()


def test_explained_frames_tell_the_gain_and_bars_the_shares() -> None:
    kept = selection([(0, 1, 1), (0, 2, 3)], text=[0.75, 0.0], vision=[0.25, 0.25])
    drawn = overlay(of_color((90, 90, 90)), kept, explain=True, scale=SCALE)
    assert drawn.getpixel((SIDE, SIDE)) == gain_color(1.0)
    assert drawn.getpixel((3 * SIDE, 2 * SIDE)) == gain_color(0.25)
    bar = SIDE - 1 - 3 - 2  # above the frame of 3 pixels
    orange = [drawn.getpixel((SIDE + x, SIDE + bar)) == TEXT_COLOR for x in range(3, 45)]
    assert sum(orange) == 36 - 3  # three quarters of the patch, less the frame
    assert drawn.getpixel((3 * SIDE + 12, 2 * SIDE + bar)) == VISION_COLOR
    number = np.asarray(drawn)[SIDE + 4 : SIDE + 20, SIDE + 4 : SIDE + 24]
    assert (number == 255).all(-1).any(), "the number of the pick is written"


def test_a_class_token_is_not_drawn() -> None:
    drawn = overlay(of_color((90, 90, 90)), selection([(0, -1, -1)], [0.2], [0.2]), scale=SCALE)
    assert drawn.crop((1, 1, 4 * SIDE - 1, 4 * SIDE - 1)).getcolors() == [((4 * SIDE - 2) ** 2, (36, 36, 36))]


def explained(budget: float | None, kept: int, answer: str | None = None) -> Explanation:
    """Of 720 vision tokens in a prompt with 14 others."""
    values = ("Where is it?", budget, 14 + kept, 734, kept, 0.912, selection([(0, 0, 0)], [0.1], [0.1]))
    return Explanation(*values) if answer is None else Answer(*values, answer, 0.1)


CROPS = Seen((Image.new("RGB", (24, 24)),) * 5, PATCH, (2, 2), True, ("crop 1: overview", "crops 2 to 5", *[""] * 3),
             tuple(range(5)), 5)  # fmt: skip


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize(
    ("seen", "read", "title"),
    [
        (CROPS, explained(None, 720), "all 720 tokens"),
        (CROPS, explained(16, 80), "budget 16 per crop: 80 of 720 tokens"),
        (of_color((9, 9, 9)), explained(16, 16), "budget 16: 16 of 720 tokens"),
        (of_color((9, 9, 9)), explained(0.25, 180), "budget 0.25: 180 of 720 tokens"),
    ],
)
def test_the_budget_is_shown_as_it_was_asked_for(seen: Seen, read: Explanation, title: str) -> None:
    told = texts(kept_figure(seen, [[read]]))
    assert title in told
    assert f"prompt of {read.prompt_tokens} tokens · coverage 91.2%" in told


@pytest.mark.parametrize(
    ("explain", "whole", "entries"),
    [
        (False, None, ["read by the language model"]),
        (False, (Image.new("RGB", (36, 24)), 6, 0), ["read by the language model", "cut off before the model"]),
        (True, None, ["bar: gain that covers the question", "bar: gain that covers the image"]),
    ],
)
def test_the_legend_has_two_things_at_most(explain: bool, whole, entries: list[str]) -> None:
    seen = Seen((Image.new("RGB", (24, 24)),), PATCH, whole=whole)
    figure = kept_figure(seen, [[explained(16, 16)]], explain=explain)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == entries
    assert any("order of the picks" in told for told in texts(figure)) == explain


def test_answers_are_written_below_the_drawings() -> None:
    """None where nothing was asked; a long one on several lines, at most 6; that there is none; right and wrong."""
    seen, long = of_color((9, 9, 9)), "a word and " * 60
    heights = []
    for answers in ([None, None], ["yes", ""], [long, "yes"]):
        figure = kept_figure(seen, [[explained(16, 16, answer) for answer in answers]])
        heights.append(figure.get_size_inches()[1])
    assert heights[0] < heights[1] < heights[2]
    lines = [told for told in texts(figure) if told.startswith(("a ", "and", "word"))]
    assert len(lines) == 6
    assert lines[-1].endswith("…")
    told = kept_figure(seen, [[explained(16, 16, answer) for answer in ("yes", "no", "")]], right=["yes"]).texts
    found = {text.get_text(): text.get_color() for text in told}
    assert found["yes ✓"] != found["no ✗"] == found["(no answer) ✗"]


def test_a_row_that_is_too_wide_goes_on_below() -> None:
    wide = Seen((Image.new("RGB", (216, 96)),), PATCH)
    figures = [kept_figure(wide, [[explained(16, 16)] * count]) for count in (1, 2, 3)]
    widths, heights = zip(*(figure.get_size_inches() for figure in figures), strict=True)
    assert widths[0] < widths[1] == widths[2] < 15
    assert heights[0] == heights[1] < heights[2]
    assert texts(figures[2]).count(explained(16, 16).question) == 1


def test_texts_are_no_formulas_and_long_ones_are_shortened(tmp_path: Path) -> None:
    """Matplotlib reads what stands between two dollars as one, and fails where it is none."""
    told, seen = r"Is it $5 or $10, or $\nothing$?", of_color((9, 9, 9))
    read = replace(explained(16, 16), question=told)
    figure = kept_figure(seen, [[read]], title=told)
    figure.savefig(tmp_path / "figure.png")
    assert [text for text in texts(figure) if text == told] == [told] * 2
    assert texts(kept_figure(seen, [[read]], title="a title that is too long\0 " * 9))[0].endswith("…")


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="crop 4, but the image has 1 crops"):
        overlay(of_color((9, 9, 9)), selection([(4, 0, 0)], [0.1], [0.1]))
    with pytest.raises(ValueError, match=r"The rows hold \[1, 0\] drawings"):
        kept_figure(of_color((9, 9, 9)), [[explained(16, 16)], []])
