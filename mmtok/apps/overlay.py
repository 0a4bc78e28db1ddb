"""Draws the kept vision tokens on the image: the patches that the language model reads, and what each adds.

    selection = model.select_vision_tokens(**inputs, vision_token_budget=8)
    [image] = seen_images(inputs, model.config, processor.image_processor)
    overlay(image, selection.images[0]).save("kept.png")

The patch of a kept vision token is framed in the colour of its gain, relative to the largest gain of the selection. The
bar below it splits the gain: the orange part covers the question, the blue part the image. Everything else is faded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageEnhance

from .colors import TEXT_COLOR, VISION_COLOR, Color, ColorBy, gain_color, share_color
from .seen_image import SeenImage
from .seen_video import SeenVideo

if TYPE_CHECKING:
    from mmtok.hub.selection import ImageSelection

_FADED = 0.6  # share of white in a patch that was dropped


def overlay(
    image: SeenImage | SeenVideo,
    selection: ImageSelection | None,
    *,
    color_by: ColorBy = "gain",
    numbers: bool | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Draws the kept vision tokens of one image.

    Args:
        image: what the vision tower saw.
        selection: what was kept of it; None shows the image with every patch and no frames.
        color_by: colours the frames by "gain", or by "text share" from blue (image) to orange (question).
        numbers: write into each patch which pick it was, from 1; by default where there are no more than 32 of them,
            of a video in each frame.
        scale: overlay pixels per image pixel; by default such that a patch can be made out.

    Returns:
        RGB, the crops side by side on white; of a video the frames, with their labels.

    Raises:
        ValueError: the selection names a crop that the image does not have.
    """
    scale = scale or image.scale()
    origins = dict(zip(image.numbers, image.origins(scale), strict=True))
    sizes = [(crop.width * scale, crop.height * scale) for crop in image.crops]
    enlarged = [crop.resize(size, Image.Resampling.NEAREST) for crop, size in zip(image.crops, sizes, strict=True)]
    large = dict(zip(image.numbers, enlarged, strict=True))
    extent = [max(o[axis] + size[axis] for o, size in zip(origins.values(), sizes, strict=True)) for axis in (0, 1)]
    canvas = Image.new("RGB", (extent[0], extent[1]), "white")
    draw = ImageDraw.Draw(canvas)
    for number, crop in large.items():
        canvas.paste(crop if selection is None else _fade(crop), origins[number])
    for text, place, size in image.captions(scale):
        draw.text(place, text, fill="black", font_size=size)
    if selection is None:
        return canvas
    last = int(selection.crop.max()) if len(selection.crop) else 0
    if last >= image.count:
        raise ValueError(f"The selection keeps tokens of crop {last}, but the image has {image.count} crops.")
    patch = image.patch_size * scale
    gains = (selection.text_gain + selection.vision_gain).tolist()
    texts = selection.text_gain.tolist()
    strongest = max([*gains, 1e-12])
    places = zip(selection.crop.tolist(), selection.row.tolist(), selection.column.tolist(), strict=True)
    numbers = _few(selection) if numbers is None else numbers
    for token, (number, row, column) in enumerate(places):
        # CLIP's class token has no place in the image; of a long video some frames are drawn.
        if row < 0 or number not in large:
            continue
        x, y = origins[number][0] + column * patch, origins[number][1] + row * patch
        inside = (column * patch, row * patch, (column + 1) * patch, (row + 1) * patch)
        canvas.paste(large[number].crop(inside), (x, y))
        share = texts[token] / gains[token] if gains[token] > 0 else 0.0
        color = gain_color(gains[token] / strongest) if color_by == "gain" else share_color(share)
        label = str(int(selection.pick_order[token]) + 1) if numbers else ""
        _frame(draw, (x, y), patch, color, share, label)
    return canvas


def _few(selection: ImageSelection) -> bool:
    """Whether so few tokens are kept, of a video in each frame, that their numbers can be read."""
    counts = selection.crop.bincount().tolist() if selection.is_video else [len(selection.crop)]
    return max(counts, default=0) <= 32


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
