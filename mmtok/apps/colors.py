"""Colours of what is drawn about a kept vision token: its gain, and how much of it covers the question."""

from __future__ import annotations

from typing import Literal

from matplotlib import colormaps

ColorBy = Literal["gain", "text share"]
Color = tuple[int, int, int]

TEXT_COLOR: Color = (240, 120, 20)
VISION_COLOR: Color = (40, 110, 210)
# Perceptually even from a pale to a dark end; its darkest and palest tenths do not stand out from an image.
_GAIN_COLORS = colormaps["plasma_r"].resampled(256)


def gain_color(relative_gain: float) -> Color:
    """Colour of a gain relative to the largest one, 0 to 1."""
    red, green, blue, _ = _GAIN_COLORS(0.1 + 0.8 * min(max(relative_gain, 0.0), 1.0), bytes=True)
    return int(red), int(green), int(blue)


def share_color(text_share: float) -> Color:
    """Colour of a text share, 0 to 1: blue for a patch that covers the image, orange for the question."""
    mixed = [
        round(text_share * text + (1 - text_share) * vision)
        for text, vision in zip(TEXT_COLOR, VISION_COLOR, strict=True)
    ]
    return mixed[0], mixed[1], mixed[2]
