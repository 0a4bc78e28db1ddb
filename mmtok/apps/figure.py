"""Figures of several overlays, such as one row for each question and one column for each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from .colors import TEXT_COLOR, VISION_COLOR, ColorBy, gain_color, share_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Panel:
    """One image of a figure, with a line above it and a smaller one below that; both are shortened to its width."""

    image: Image.Image
    title: str
    note: str = ""
    title_color: str = "black"


def comparison_figure(
    rows: Sequence[Sequence[Panel]],
    *,
    row_titles: Sequence[str] = (),
    title: str = "",
    color_by: ColorBy = "gain",
    panel_inches: float = 2.9,
) -> Figure:
    """Panels in rows and columns, such as one row for each question and one column for each budget.

    Args:
        rows: equally long rows of panels.
        row_titles: a line above each row, or none; where one is empty, the row moves up.
        title: a line above everything.
        color_by: as given to `overlay`, for the colour bar.
        panel_inches: height of a panel.

    Returns:
        A figure that belongs to no window; `figure.savefig(path)` writes it, a notebook shows it.

    Raises:
        ValueError: no panels, rows of different lengths, or another number of row titles than of rows.
    """
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        raise ValueError(f"The rows hold {[len(row) for row in rows]} panels: give equally many, at least one.")
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f"There are {len(row_titles)} row titles for {len(rows)} rows: give one for each, or none.")
    first = rows[0][0].image
    width = panel_inches * first.width / first.height
    size_of = _Inches(header=0.5 if title else 0.1)
    below_title = size_of.panel_title + panel_inches + size_of.between
    titles = row_titles or [""] * len(rows)
    row_heights = [below_title + (size_of.row_title if row_title else 0.1) for row_title in titles]
    size = (
        max(len(rows[0]) * (width + size_of.between) + size_of.between, 6.4),
        size_of.header + sum(row_heights) + size_of.legend,
    )
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        # Texts are shown as they are, and not read as formulas.
        place = (size_of.between / size[0], 1 - 0.31 / size[1])
        figure.text(*place, _printable(title), fontsize=11, color="0.35", parse_math=False)
    for index, row in enumerate(rows):
        top = size[1] - size_of.header - sum(row_heights[:index])
        if titles[index]:
            place = (size_of.between / size[0], (top - 0.2) / size[1])
            figure.text(*place, _printable(titles[index]), fontsize=12.5, weight="bold", va="center", parse_math=False)
        bottom = top - row_heights[index] + size_of.between
        for column, panel in enumerate(row):
            left = size_of.between + column * (width + size_of.between)
            box = (left / size[0], bottom / size[1], width / size[0], panel_inches / size[1])
            _draw_panel(figure.add_axes(box), panel, characters=int(width * 12))
    _legend(figure, size, color_by)
    return figure


@dataclass(frozen=True)
class _Inches:
    """Heights of what stands around the panels of a figure, and the gap between two panels."""

    header: float
    row_title: float = 0.36
    panel_title: float = 0.42
    between: float = 0.16
    legend: float = 0.72


def _draw_panel(axes: Axes, panel: Panel, characters: int) -> None:
    axes.imshow(np.asarray(panel.image), interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.8")
    axes.annotate(
        shorten(_printable(panel.title), characters, placeholder=" …"),
        (0, 1),
        (1, 15 if panel.note else 5),
        fontsize=10.5,
        color=panel.title_color,
        weight="bold",
        xycoords="axes fraction",
        textcoords="offset points",
        parse_math=False,
    )
    axes.annotate(
        shorten(_printable(panel.note), int(characters * 1.25), placeholder=" …"),
        (0, 1),
        (1, 4.5),
        fontsize=8.5,
        color="0.35",
        xycoords="axes fraction",
        textcoords="offset points",
        parse_math=False,
    )


def _legend(figure: Figure, size: tuple[float, float], color_by: ColorBy) -> None:
    """Colour bar of the frames on the left, what the bars below the patches mean on the right."""
    bar = figure.add_axes((0.2 / size[0], 0.36 / size[1], 1.9 / size[0], 0.12 / size[1]))
    color = gain_color if color_by == "gain" else share_color
    bar.imshow([[color(step / 255) for step in range(256)]], aspect="auto", extent=(0, 1, 0, 1))
    bar.set_yticks([])
    bar.set_xticks([0, 1])
    bar.tick_params(length=0, labelsize=7.5, pad=2)
    bar.set_title(
        "frame: gain relative to the first pick" if color_by == "gain" else "frame: share of the gain in the question",
        fontsize=8,
        pad=3,
        loc="left",
    )
    figure.text(4.9 / size[0], 0.3 / size[1], "number: order of the picks", fontsize=8)
    handles = [
        Patch(color="#" + bytes(color_of).hex(), label=f"bar: gain that covers the {what}")
        for color_of, what in ((TEXT_COLOR, "question"), (VISION_COLOR, "image"))
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(2.4 / size[0], 0.08 / size[1]),
        ncols=1,
        fontsize=8,
        frameon=False,
        borderaxespad=0,
    )


def _printable(text: str) -> str:
    """Without control characters, which no font can draw."""
    return "".join(character if character.isprintable() else " " for character in text)
