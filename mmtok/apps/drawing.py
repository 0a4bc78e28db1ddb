"""Draws the vision tokens that the language model reads of an image or video, and figures of several such drawings.

    selection = model.select_vision_tokens(**inputs, vision_token_budget=8)
    [seen] = seen_images(inputs, model.config, processor.image_processor)
    overlay(seen, selection.images[0]).save("kept.png")

The patches of kept vision tokens stay as they are and are outlined; the others are darkened so far that patches and
outline stand out from them on white documents as on photos. What the image processor cut off is hatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .answering import Answer, Explanation, counted
from .seen import WIDEST, Seen

if TYPE_CHECKING:
    from mmtok.hub.selection import ImageSelection

Color = tuple[int, int, int]

READ: Color = (255, 212, 0)
CUT_OFF: Color = (200, 30, 60)
TEXT_COLOR: Color = (240, 120, 20)
VISION_COLOR: Color = (40, 110, 210)
_EDGE: Color = (190, 190, 190)  # of crops: white ones would not stand out from what is around them
_RIGHT, _WRONG = "#1a7f37", "#b3261e"
# What is left of a pixel that is not read: of its own colour, and of its lightness.
_DARKENED = (0.2, 0.2)
_GAIN_COLORS = colormaps["plasma"].resampled(256)


def gain_color(relative_gain: float) -> Color:
    """Colour of a gain relative to the largest one, 0 to 1; the darkest colours would not stand out."""
    red, green, blue, _ = _GAIN_COLORS(0.3 + 0.7 * min(max(relative_gain, 0.0), 1.0), bytes=True)
    return int(red), int(green), int(blue)


def overlay(
    seen: Seen, selection: ImageSelection | None, *, explain: bool = False, scale: int | None = None
) -> Image.Image:
    """Draws the kept vision tokens of one image or video.

    Args:
        selection: what was kept of it; None for all, without outlines.
        explain: frame every kept patch in the colour of its gain, with a bar that splits the gain into what covers the
            question (orange) and what covers the image (blue), and the number of the pick, from 1.
        scale: pixels of the drawing per pixel of the image; by default such that a patch can be made out.

    Returns:
        RGB, the crops side by side on white, with their labels.

    Raises:
        ValueError: the selection names a crop that the image does not have.
    """
    last = -1 if selection is None or not len(selection.crop) else int(selection.crop.max())
    if last >= seen.count:
        raise ValueError(f"The selection keeps tokens of crop {last}, but the image has {seen.count} crops.")
    scale = scale or seen.scale
    origins = seen.origins(scale)
    crops = [crop.resize((crop.width * scale, crop.height * scale), Image.Resampling.NEAREST) for crop in seen.crops]
    ends = [(x + crop.width, y + crop.height) for (x, y), crop in zip(origins, crops, strict=True)]
    if seen.whole is None:
        canvas = Image.new("RGB", (max(x for x, _ in ends), max(y for _, y in ends)), "white")
    else:
        canvas = _hatched(seen.whole[0].resize([side * scale for side in seen.whole[0].size]), (*origins[0], *ends[0]))
    draw = ImageDraw.Draw(canvas)
    for label, (x, y) in zip(seen.labels, origins, strict=bool(seen.labels)):
        size = seen.label_size(scale)
        draw.text((x, y - size * 4 // 3), label, fill="black", font_size=size)
    for number, crop, origin, end in zip(seen.numbers, crops, origins, ends, strict=True):
        if selection is not None:
            crop = _drawn(crop, selection, number, seen.patch_size * scale, explain)
        canvas.paste(crop, origin)
        draw.rectangle((*origin, end[0] - 1, end[1] - 1), outline=_EDGE)
    return canvas


def _drawn(crop: Image.Image, kept: ImageSelection, number: int, side: int, explain: bool) -> Image.Image:
    """One crop, enlarged, with patches of `side` pixels."""
    read: NDArray[np.bool_] = np.zeros((crop.height // side, crop.width // side), bool)
    # CLIP's class token has no place in the image.
    own = (kept.crop == number) & (kept.row >= 0)
    read[kept.row[own].numpy(), kept.column[own].numpy()] = True
    pixels = np.asarray(crop).astype(np.float32)
    dark = _DARKENED[0] * pixels + _DARKENED[1] * pixels.mean(-1, keepdims=True)
    shown = read.repeat(side, 0).repeat(side, 1)
    drawn = np.where(shown[..., None], pixels, dark).round().astype(np.uint8)
    if not explain:
        # The outline runs along the border between what is read and what is not, inside of what is read.
        width = max(2, side // 12)
        near, middle = np.pad(shown, width), slice(width, -width)
        inner = near[: -2 * width, middle] & near[2 * width :, middle]
        inner &= near[middle, : -2 * width] & near[middle, 2 * width :]
        drawn[shown & ~inner] = READ
        return Image.fromarray(drawn)
    image = Image.fromarray(drawn)
    draw, width = ImageDraw.Draw(image), max(1, side // 14)
    gains = kept.text_gain + kept.vision_gain
    strongest = max(float(gains.max()), 1e-12)
    for token in own.nonzero()[:, 0].tolist():
        gain, x, y = float(gains[token]), int(kept.column[token]) * side, int(kept.row[token]) * side
        right, bottom = x + side - 1, y + side - 1
        if side >= 14:  # the bar that splits the gain
            top, low = bottom - width - max(2, side // 6) + 1, bottom - width
            middle_x = x + round(float(kept.text_gain[token]) / gain * side) if gain > 0 else x
            draw.rectangle((x, top, right, low), fill=VISION_COLOR)
            if middle_x > x:
                draw.rectangle((x, top, middle_x - 1, low), fill=TEXT_COLOR)
        draw.rectangle((x, y, right, bottom), outline=gain_color(gain / strongest), width=width)
        if side >= 24:  # the number of the pick fits
            size = max(9, side // 3)
            style: dict[str, Any] = {"font_size": size, "stroke_width": max(1, size // 10), "stroke_fill": "black"}
            draw.text((x + width + 2, y + width), str(int(kept.pick_order[token]) + 1), fill="white", **style)
    return image


def _hatched(image: Image.Image, crop: tuple[int, int, int, int]) -> Image.Image:
    """The image pale and hatched, with the parts beside the crop outlined; the crop is drawn over it."""
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.5)
    draw = ImageDraw.Draw(pale)
    step = max(10, min(image.size) // 14)
    for start in range(-image.height, image.width, step):
        draw.line((start, image.height, start + image.height, 0), fill=CUT_OFF, width=max(1, step // 16))
    (left, top, right, bottom), (width, height) = crop, image.size
    parts = [(0, 0, left, height), (right, 0, width, height), (left, 0, right, top), (left, bottom, right, height)]
    for x, y, end, low in parts:
        if end > x and low > y:
            draw.rectangle((x, y, end - 1, low - 1), outline=CUT_OFF, width=max(2, step // 8))
    return pale


# Inches of what stands around the drawings of a figure, and between two of them.
_HEADER, _ROW_TITLE, _PANEL_TITLE, _NOTE, _LINE, _BETWEEN, _LEGEND = 0.5, 0.36, 0.24, 0.18, 0.2, 0.16, 0.34
_NARROWEST = 2.9  # inches of a drawing with its texts
_MOST_LINES = 6


def kept_figure(
    seen: Seen,
    rows: Sequence[Sequence[Explanation]],
    *,
    title: str = "",
    explain: bool = False,
    right: Sequence[str] = (),
) -> Figure:
    """What is read of an image or video: for each question a row with a drawing for each budget.

    A row that is too wide goes on below; texts that are too long are shortened.

    Args:
        rows: for each question what is read with each budget; answers are written below the drawings.
        title: a line above everything.
        explain: as for `overlay`.
        right: for each question its right answer, () where they are not known.

    Returns:
        A figure that belongs to no window; `figure.savefig(path)` writes it, a notebook shows it.

    Raises:
        ValueError: no drawings, or a row without one.
    """
    if not rows or not all(rows):
        raise ValueError(f"The rows hold {[len(row) for row in rows]} drawings: give each at least one.")
    drawn = [
        [overlay(seen, None if read.budget is None else read.selection, explain=explain) for read in row]
        for row in rows
    ]
    width = seen.inches * drawn[0][0].width / drawn[0][0].height
    cell = max(width, _NARROWEST)
    fit = max(1, int((WIDEST + 2 * _BETWEEN) // (cell + _BETWEEN)))
    # Number of the question, its text in its first line, what is read and drawings of each line.
    lines = [
        (number, row[0].question if start == 0 else "", row[start : start + fit], drawn[number][start : start + fit])
        for number, row in enumerate(rows)
        for start in range(0, len(row), fit)
    ]
    columns = max(len(row) for _, _, row, _ in lines)
    size_x = max(columns * (cell + _BETWEEN) + _BETWEEN, 6.4)
    titles = [_fitted(question, size_x * 8, _MOST_LINES) for _, question, _, _ in lines]
    told = [[_answer(read, right[number] if right else None) for read in row] for number, _, row, _ in lines]
    answers = [[(_fitted(text, cell * 10, _MOST_LINES), color) for text, color in row] for row in told]
    heights = [
        _PANEL_TITLE + _NOTE + seen.inches + _BETWEEN
        + (_ROW_TITLE + (len(question) - 1) * _LINE if question else 0.1)
        + max(len(text) for text, _ in row) * _LINE
        for question, row in zip(titles, answers, strict=True)
    ]  # fmt: skip
    header = _HEADER if title else 0.1
    size_y = header + sum(heights) + _LEGEND * (2 if explain else 1)
    figure = Figure(figsize=(size_x, size_y), facecolor="white")
    FigureCanvasAgg(figure)

    def write(text: str, x: float, y: float, **style: Any) -> None:
        # Texts are shown as they are, and not read as formulas.
        figure.text(x / size_x, y / size_y, text, parse_math=False, **style)

    if title:
        write(_fitted(title, size_x * 13, 1)[0], _BETWEEN, size_y - 0.31, fontsize=11, color="0.35")
    top = size_y - header
    for (_, _, row, images), question, below, height in zip(lines, titles, answers, heights, strict=True):
        for number, text in enumerate(question):
            write(text, _BETWEEN, top - 0.2 - number * 1.1 * _LINE, fontsize=12.5, weight="bold", va="center")
        bottom = top - height + _BETWEEN + max(len(text) for text, _ in below) * _LINE
        for column, (read, image, (answer, color)) in enumerate(zip(row, images, below, strict=True)):
            left = _BETWEEN + column * (cell + _BETWEEN)
            axes = figure.add_axes((left / size_x, bottom / size_y, width / size_x, seen.inches / size_y))
            axes.imshow(np.asarray(image), interpolation="antialiased")
            axes.set_axis_off()
            above = bottom + seen.inches + 0.06
            budget = _fitted(_budget_title(seen, read), cell * 11.5, 1)[0]
            write(budget, left, above + _NOTE, fontsize=10.5, weight="bold")
            note = f"prompt of {counted(read.prompt_tokens, 'token')} · coverage {read.coverage:.1%}"
            write(_fitted(note, cell * 15, 1)[0], left, above, fontsize=8.5, color="0.35")
            for number, text in enumerate(answer):
                short = {"fontsize": 12, "weight": "bold"} if len(answer) == 1 else {"fontsize": 10}
                write(text, left, bottom - 0.17 - number * _LINE, color=color, **short)
        top -= height
    _legend(figure, (size_x, size_y), explain, cut_off=seen.whole is not None)
    return figure


def _answer(read: Explanation, right: str | None) -> tuple[str, str]:
    """The answer, marked where it is known what is right, and its colour; "" where nothing was asked."""
    if not isinstance(read, Answer):
        return "", "black"
    answer = read.answer or "(no answer)"
    if right is None:
        return answer, "black"
    good = answer == right
    return f"{answer} {'✓' if good else '✗'}", _RIGHT if good else _WRONG


def _budget_title(seen: Seen, read: Explanation) -> str:
    """The budget as it was asked for, and what is kept with it."""
    if read.budget is None:
        return f"all {counted(read.all_vision_tokens, 'token')}"
    each = f" per {seen.unit}" if seen.count > 1 else ""
    return f"budget {read.budget}{each}: {read.vision_tokens:,} of {counted(read.all_vision_tokens, 'token')}"


def _fitted(text: str, characters: float, lines: int) -> list[str]:
    """The text on at most so many lines, without control characters, which no font can draw."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return wrap(printable, max(8, int(characters)), max_lines=lines, placeholder=" …") or ([""] if lines == 1 else [])


def _legend(figure: Figure, size: tuple[float, float], explain: bool, cut_off: bool) -> None:
    """What is outlined and what is cut off; explained, also what frames, bars and numbers say."""

    def css(color: Color) -> str:
        return "#" + bytes(color).hex()

    handles = [Patch(facecolor="white", edgecolor=css(READ), linewidth=2, label="read by the language model")]
    if cut_off:
        handles.append(Patch(hatch="////", facecolor="white", edgecolor=css(CUT_OFF), label="cut off before the model"))
    if explain:
        handles[0] = Patch(color=css(TEXT_COLOR), label="bar: gain that covers the question")
        handles.insert(1, Patch(color=css(VISION_COLOR), label="bar: gain that covers the image"))
        bar = figure.add_axes((_BETWEEN / size[0], 0.42 / size[1], 1.2 / size[0], 0.1 / size[1]))
        bar.imshow([[gain_color(step / 255) for step in range(256)]], aspect="auto")
        bar.set_axis_off()
        told = "frame: gain, from small to the largest; number: order of the picks"
        figure.text((_BETWEEN + 1.3) / size[0], 0.43 / size[1], told, fontsize=8)
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(_BETWEEN / size[0], 0.06 / size[1]),
        ncols=len(handles),
        fontsize=8.5,
        frameon=False,
        borderaxespad=0,
        borderpad=0.2,
        columnspacing=1.5,
    )
