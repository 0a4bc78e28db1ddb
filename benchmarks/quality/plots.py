"""Figures of results: retention over budget, heat maps of two settings, and galleries of kept patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# The method under test stands out; the others share what is left.
_EMPHASIS = {"MMTok": ("#c0392b", 2.6)}
_MARKERS = "osD^vP*Xhd<>"


def retention_figure(
    results: Mapping[str, Any],
    methods: Sequence[str],
    path: Path,
    title: str,
) -> None:
    """Draws mean retention over the budget, a line with its 95 % interval for every method.

    Args:
        results: of `summarize`.
        methods: which, in the order of the legend.
        path: of the PNG.
        title: above the axes.
    """
    figure, axes = _figure(8.4, 5.2)
    others = [method for method in methods if method not in _EMPHASIS]
    colors = dict(zip(others, colormaps["tab10"](np.arange(len(others)) % 10), strict=True))
    count = max(len(methods), 1)
    for index, method in enumerate(methods):
        cells = [cell for cell in results["cells"] if cell["method"] == method and "retention" in cell]
        means = [cell["retention"]["mean"] for cell in cells]
        color, width = _EMPHASIS.get(method, (None, 1.3))
        # Side by side, so that intervals at one budget can be told apart.
        places = [cell["budget"] * 1.012 ** (index - count / 2) for cell in cells]
        errors = [
            [100 * max(mean["estimate"] - mean["low"], 0) for mean in means],
            [100 * max(mean["high"] - mean["estimate"], 0) for mean in means],
        ]
        axes.errorbar(
            places,
            [100 * mean["estimate"] for mean in means],
            yerr=errors,
            label=method,
            color=color if color is not None else colors[method],
            linewidth=width,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4.5,
            elinewidth=0.9,
            capsize=2,
        )
    budgets = sorted({cell["budget"] for cell in results["cells"] if cell["budget"] is not None})
    _log_budgets(axes, budgets)
    axes.set_xlabel("vision tokens kept per crop")
    axes.set_ylabel(f"{'score kept, % of all tokens'} (mean over tasks)")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right", ncols=2)
    _save(figure, path)


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    *,
    row_name: str,
    column_name: str,
    title: str,
) -> None:
    """Draws a table of percentages in colours.

    Args:
        values: (rows, columns) shares.
        rows, columns: labels of the ticks.
        path: of the PNG.
        row_name, column_name: labels of the axes.
        title: above the axes.
    """
    figure, axes = _figure(1.0 * len(columns) + 2.6, 0.62 * len(rows) + 1.9)
    shown = axes.imshow(100 * values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(column_name)
    axes.set_ylabel(row_name)
    axes.set_title(title, fontsize=10)
    middle = 50 * (values.min() + values.max())
    for (row, column), value in np.ndenumerate(100 * values):
        axes.text(
            column, row, f"{value:.1f}", ha="center", va="center", color="w" if value < middle else "k", fontsize=9
        )
    figure.colorbar(shown, ax=axes, label="%")
    _save(figure, path)


def tokens_figure(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path, title: str) -> None:
    """Draws mean retention over the mean number of tokens that were read, a line for every way of choosing it.

    Args:
        curves: name -> points with `vision_tokens`, `estimate`, `low` and `high`.
        path: of the PNG.
        title: above the axes.
    """
    figure, axes = _figure(7.2, 4.6)
    for index, (name, points) in enumerate(curves.items()):
        ordered = sorted(points, key=lambda point: point["vision_tokens"])
        tokens = [point["vision_tokens"] for point in ordered]
        axes.plot(tokens, [100 * p["estimate"] for p in ordered], marker=_MARKERS[index], markersize=5, label=name)
        axes.fill_between(tokens, [100 * p["low"] for p in ordered], [100 * p["high"] for p in ordered], alpha=0.13)
    _log_budgets(axes, [2, 4, 8, 16, 32, 64])
    axes.set_xlabel("vision tokens read, mean over the questions")
    axes.set_ylabel("score kept, % of all tokens")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, loc="lower right")
    _save(figure, path)


def gallery(
    rows: Sequence[Sequence[tuple[str, Image.Image]]], path: Path, title: str, size: tuple[float, float] = (2.7, 3.0)
) -> None:
    """Draws images with captions, a row of them for every entry of `rows`; `size` is that of each, in inches."""
    widest = max(len(row) for row in rows)
    figure = Figure(figsize=(size[0] * widest, size[1] * len(rows) + 0.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), widest, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for line, row in zip(grid, rows, strict=True):
        for axes, (caption, image) in zip(line, row, strict=False):
            axes.imshow(image)
            axes.set_title(caption, fontsize=8.5)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _log_budgets(axes: Any, budgets: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the program's version in the file the same results make the same bytes.
    figure.savefig(path, metadata={"Software": None})
