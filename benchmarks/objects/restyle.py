"""Drawings as other hands would have made them, so that the model does not learn one set's colours by heart."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

Sprite = Image.Image


def restyle(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Change proportions, colours, outline and sharpness of a drawing (RGBA), each with some probability."""
    if rng.random() < 0.7:
        width = max(2, round(sprite.width * rng.uniform(0.78, 1.25)))
        sprite = sprite.resize((width, sprite.height), Image.Resampling.BILINEAR)
    if rng.random() < 0.4:
        shear = (1, rng.uniform(-0.25, 0.25), 0, rng.uniform(-0.12, 0.12), 1, 0)
        sprite = sprite.transform(sprite.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    sprite = _recolor(sprite, rng)
    if rng.random() < 0.3:
        sprite = _outline(sprite, 2 * int(rng.integers(1, 3)) + 1, rng)
    if rng.random() < 0.15:
        sprite = sprite.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    return sprite


def _recolor(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Change hue, saturation, gamma, contrast and brightness."""
    pixels = np.asarray(sprite).copy()
    rgb = pixels[..., :3].astype(np.float32) / 255
    angle = rng.normal(0, 0.35) if rng.random() < 0.75 else rng.uniform(-np.pi, np.pi)
    saturation = rng.uniform(0.3, 1.5) if rng.random() < 0.93 else 0.0
    gray = rgb.mean(-1, keepdims=True)
    rgb = (gray + saturation * (rgb - gray)) @ hue_rotation(angle).T
    rgb = rgb.clip(0, 1) ** rng.uniform(0.6, 1.6)
    rgb = 0.5 + (rgb - 0.5) * rng.uniform(0.7, 1.3) + rng.uniform(-0.1, 0.1)
    pixels[..., :3] = (255 * rgb).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def hue_rotation(angle: float) -> np.ndarray:
    """The rotation of RGB about the grey axis by an angle in radians: (3, 3) float32; greys stay as they are."""
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return np.asarray(cosine * np.eye(3) + (1 - cosine) / 3 + sine * cross, np.float32)


def _outline(sprite: Sprite, width: int, rng: np.random.Generator) -> Sprite:
    """Put a dark line around what is drawn."""
    canvas = Image.new("RGBA", (sprite.width + 6, sprite.height + 6))
    canvas.paste(sprite, (3, 3))
    line = Image.new("RGBA", canvas.size, (*(int(value) for value in rng.integers(0, 60, 3)), 255))
    line.putalpha(canvas.getchannel("A").filter(ImageFilter.MaxFilter(width)))
    line.alpha_composite(canvas)
    return line
