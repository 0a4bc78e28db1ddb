"""The figure of a video: for each question and each budget the frames, with what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from .answer import Answer, Explanation
from .colors import ColorBy
from .figure import Panel, comparison_figure
from .overlay import overlay
from .seen_video import SeenVideo
from .wording import counted


def video_figure(
    seen: SeenVideo, rows: Sequence[Sequence[Explanation]], *, title: str = "", color_by: ColorBy = "gain"
) -> Figure:
    """One row of frames for each question and each budget.

    Args:
        seen: the frames to draw.
        rows: for each question what is read with each budget.
        title: a line above everything.
        color_by: as for `overlay`.
    """
    panels = [[_panel(seen, read, color_by)] for row in rows for read in row]
    titles = [read.question if read is row[0] else "" for row in rows for read in row]
    drawn = panels[0][0].image
    height = seen.inches * drawn.height / drawn.width
    return comparison_figure(panels, row_titles=titles, title=title, color_by=color_by, panel_inches=height)


def tokens_per_frame(read: Explanation) -> str:
    """How many vision tokens stay of each frame or pair: "4", or "3 to 5" where it differs."""
    few, many = min(read.tokens_per_frame), max(read.tokens_per_frame)
    return f"{few:,}" if few == many else f"{few:,} to {many:,}"


def _panel(seen: SeenVideo, read: Explanation, color_by: ColorBy) -> Panel:
    kept = tokens_per_frame(read)
    title = f"{kept} {'token' if kept == '1' else 'tokens'} per {seen.unit}"
    if isinstance(read, Answer):
        title += f" → {read.answer or '(nothing)'}"
    note = f"{counted(read.vision_tokens, 'token')} · prompt of {counted(read.prompt_tokens, 'token')}"
    drawn = overlay(seen, None if read.budget is None else read.selection, color_by=color_by)
    return Panel(drawn, title, f"{note} · coverage {read.coverage:.1%}")
