"""Pictures of what was kept: the patches that the language model reads, and what each adds to the coverage.

    selection = model.select_vision_tokens(**inputs, vision_token_budget=8)
    [picture] = seen_pictures(inputs, model.config, processor.image_processor)
    overlay(picture, selection.images[0]).save("kept.png")

A kept patch is framed in the colour of its gain, relative to the largest gain of the selection. The bar below it splits
the gain: the orange part covers the question, the blue part the picture. Everything else is faded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw, ImageEnhance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmtok.hub.selection_record import ImageSelection

ColorBy = Literal["gain", "text share"]
Color = tuple[int, int, int]

TEXT_COLOR: Color = (240, 120, 20)
VISION_COLOR: Color = (40, 110, 210)
# Perceptually even from a pale to a dark end; its darkest and palest tenths do not stand out from a picture.
_GAIN_COLORS = colormaps["plasma_r"].resampled(256)
_FADED = 0.6  # share of white in a patch that was dropped
_PATCH_PIXELS = 28  # least side of a patch in an overlay, so that its frame and its bar can be told apart
_LARGEST_SIDE = 2400
_GAP = 12  # pixels of an overlay between two crops


@dataclass(frozen=True)
class SeenPicture:
    """A picture as the vision tower saw it.

    Attributes:
        crops: square RGB crops of equal size; the whole picture first, then the tiles from left to right and from top
            to bottom.
        tiles: rows and columns of tiles; (0, 0) for LLaVA-1.5, which has none.
        patch_size: pixels along the side of a patch.
    """

    crops: tuple[Image.Image, ...]
    tiles: tuple[int, int]
    patch_size: int

    @property
    def grid(self) -> int:
        """Patches along the side of a crop."""
        return self.crops[0].width // self.patch_size

    def origins(self, scale: int) -> list[tuple[int, int]]:
        """Upper left corner (x, y) of each crop in an overlay: the whole picture left, the tiles as they were cut."""
        side = self.crops[0].width * scale
        right = [
            (side + 2 * _GAP + column * (side + _GAP), row * (side + _GAP))
            for row in range(self.tiles[0])
            for column in range(self.tiles[1])
        ]
        return [(0, 0), *right][: len(self.crops)]

    def scale(self) -> int:
        """How many pixels of an overlay a pixel of a crop takes along each side."""
        across = 1 + max(self.tiles)
        wanted = -(-_PATCH_PIXELS // self.patch_size)
        return max(1, min(wanted * 2 if across == 1 else wanted, _LARGEST_SIDE // (across * self.crops[0].width)))


def seen_pictures(inputs: Mapping[str, Any], config: Any, image_processor: Any) -> list[SeenPicture]:
    """The pictures of a batch, made back from `pixel_values`.

    Args:
        inputs: of a model; `pixel_values` is (N, 3, H, W), or (N, crops, 3, H, W) with `image_sizes` (N, 2).
        config: of the model.
        image_processor: gives `image_mean` and `image_std`.

    Returns:
        N pictures.

    Raises:
        ValueError: inputs without pictures, or five-dimensional `pixel_values` without `image_sizes`.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or len(pixels) == 0:
        raise ValueError("The inputs hold no pixel_values: there is no picture to show.")
    patch_size = int(config.vision_config.patch_size)
    if pixels.dim() == 4:
        crops = _rgb(pixels, image_processor)
        return [SeenPicture((crop,), (0, 0), patch_size) for crop in crops]
    if inputs.get("image_sizes") is None:
        raise ValueError(f"pixel_values has shape {tuple(pixels.shape)}: give image_sizes, which say how it was cut.")
    pictures = []
    for picture, size in zip(pixels, torch.as_tensor(inputs["image_sizes"]).tolist(), strict=True):
        rows, columns = tile_grid(size, config)
        crops = _rgb(picture[: 1 + rows * columns], image_processor)
        pictures.append(SeenPicture(tuple(crops), (rows, columns), patch_size))
    return pictures


def tile_grid(size: Sequence[int], config: Any) -> tuple[int, int]:
    """Rows and columns of the tiles that LLaVA-NeXT cuts a picture of (height, width) into."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    # Named for its width and height, it returns them in the order of (height, width) that it is given.
    rows, columns = get_anyres_image_grid_shape(
        list(size), config.image_grid_pinpoints, config.vision_config.image_size
    )
    return int(rows), int(columns)


def overlay(
    picture: SeenPicture,
    selection: ImageSelection | None,
    *,
    color_by: ColorBy = "gain",
    numbers: bool | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Draws the kept patches of one picture.

    Args:
        picture: what the vision tower saw.
        selection: what was kept of it; None shows the picture with every patch and no frames.
        color_by: colours the frames by "gain", or by "text share" from blue (picture) to orange (question).
        numbers: write into each patch which pick it was, from 1; by default where there are no more than 32 of them.
        scale: overlay pixels per picture pixel; by default such that a patch can be made out.

    Returns:
        RGB, the crops side by side on white.

    Raises:
        ValueError: the selection names a crop that the picture does not have.
    """
    scale = scale or picture.scale()
    origins = picture.origins(scale)
    side = picture.crops[0].width * scale
    extent = tuple(max(origin[axis] for origin in origins) + side for axis in (0, 1))
    canvas = Image.new("RGB", (extent[0], extent[1]), "white")
    large = [crop.resize((side, side), Image.Resampling.NEAREST) for crop in picture.crops]
    for crop, origin in zip(large, origins, strict=True):
        canvas.paste(crop if selection is None else _fade(crop), origin)
    if selection is None:
        return canvas
    last = int(selection.crop.max()) if len(selection.crop) else 0
    if last >= len(large):
        raise ValueError(f"The selection keeps tokens of crop {last}, but the picture has {len(large)} crops.")
    patch = picture.patch_size * scale
    gains = (selection.text_gain + selection.vision_gain).tolist()
    texts = selection.text_gain.tolist()
    strongest = max([*gains, 1e-12])
    places = zip(selection.crop.tolist(), selection.row.tolist(), selection.column.tolist(), strict=True)
    numbers = len(gains) <= 32 if numbers is None else numbers
    draw = ImageDraw.Draw(canvas)
    for token, (crop, row, column) in enumerate(places):
        if row < 0:  # CLIP's class token has no place in the picture
            continue
        x, y = origins[crop][0] + column * patch, origins[crop][1] + row * patch
        inside = (column * patch, row * patch, (column + 1) * patch, (row + 1) * patch)
        canvas.paste(large[crop].crop(inside), (x, y))
        share = texts[token] / gains[token] if gains[token] > 0 else 0.0
        color = gain_color(gains[token] / strongest) if color_by == "gain" else share_color(share)
        label = str(int(selection.pick_order[token]) + 1) if numbers else ""
        _frame(draw, (x, y), patch, color, share, label)
    return canvas


def gain_color(relative_gain: float) -> Color:
    """Colour of a gain relative to the largest one, 0 to 1."""
    red, green, blue, _ = _GAIN_COLORS(0.1 + 0.8 * min(max(relative_gain, 0.0), 1.0), bytes=True)
    return int(red), int(green), int(blue)


def share_color(text_share: float) -> Color:
    """Colour of a text share, 0 to 1: blue for a patch that covers the picture, orange for the question."""
    mixed = [
        round(text_share * text + (1 - text_share) * vision)
        for text, vision in zip(TEXT_COLOR, VISION_COLOR, strict=True)
    ]
    return mixed[0], mixed[1], mixed[2]


@dataclass(frozen=True)
class Panel:
    """One picture of a figure, with a line above it and a smaller one below that; both are shortened to its width."""

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
        row_titles: a line above each row, or none.
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
    size_of = _Inches(header=0.5 if title else 0.1, row_title=0.36 if row_titles else 0.1)
    row_height = size_of.row_title + size_of.panel_title + panel_inches + size_of.between
    size = (
        max(len(rows[0]) * (width + size_of.between) + size_of.between, 6.4),
        size_of.header + len(rows) * row_height + size_of.legend,
    )
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.text(size_of.between / size[0], 1 - 0.31 / size[1], title, fontsize=11, color="0.35")
    for index, row in enumerate(rows):
        top = size[1] - size_of.header - index * row_height
        if row_titles:
            place = (size_of.between / size[0], (top - 0.2) / size[1])
            figure.text(*place, row_titles[index], fontsize=12.5, weight="bold", va="center")
        bottom = top - row_height + size_of.between
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
    row_title: float
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
    )
    axes.annotate(
        shorten(_printable(panel.note), int(characters * 1.25), placeholder=" …"),
        (0, 1),
        (1, 4.5),
        fontsize=8.5,
        color="0.35",
        xycoords="axes fraction",
        textcoords="offset points",
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
        for color_of, what in ((TEXT_COLOR, "question"), (VISION_COLOR, "picture"))
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


def _rgb(pixels: torch.Tensor, image_processor: Any) -> list[Image.Image]:
    """(crops, 3, H, W) normalised -> RGB pictures."""
    mean = torch.tensor(image_processor.image_mean).view(3, 1, 1)
    std = torch.tensor(image_processor.image_std).view(3, 1, 1)
    values = (pixels.detach().float().cpu() * std + mean).mul(255).round().clamp(0, 255).byte()
    return [Image.fromarray(crop.permute(1, 2, 0).numpy()) for crop in values]


def _fade(crop: Image.Image) -> Image.Image:
    gray = ImageEnhance.Color(crop).enhance(0.35)
    return Image.blend(gray, Image.new("RGB", gray.size, "white"), _FADED)


def _frame(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, color: Color, text_share: float, label: str
) -> None:
    """The frame of a patch, the bar that splits its gain, and the number of the pick where it fits."""
    x, y = corner
    right, bottom = x + side - 1, y + side - 1
    width = max(1, side // 14)
    if side >= 14:
        height = max(2, side // 6)
        middle = x + round(text_share * side)
        draw.rectangle((x, bottom - width - height + 1, right, bottom - width), fill=VISION_COLOR)
        if middle > x:
            draw.rectangle((x, bottom - width - height + 1, middle - 1, bottom - width), fill=TEXT_COLOR)
    draw.rectangle((x, y, right, bottom), outline=color, width=width)
    if label and side >= 24:
        size = max(9, side // 3)
        draw.text(
            (x + width + 2, y + width),
            label,
            fill="white",
            font_size=size,
            stroke_width=max(1, size // 10),
            stroke_fill="black",
        )
