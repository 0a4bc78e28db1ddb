"""Draw the sprite sheets from the icon sets on npm: `python -m benchmarks.objects.rasterise PACKAGES`.

PACKAGES is a folder with the unpacked packages, one folder each, as `npm pack` and `tar` leave them:

    for set in noto noto-v1 fluent-emoji fluent-emoji-flat twemoji; do
        npm pack @iconify-json/$set && mkdir -p $set && tar -xzf iconify-json-$set-[0-9]*.tgz -C $set
    done

It needs `resvg_py`. With `--styles prints` it draws the characters of print, in fonts that come with Matplotlib. The
sheets are committed, so training does not need this step.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from mmtok.tiny.catalogue import OBJECTS
from mmtok.tiny.prints import CELL, CHARACTERS, EDGE, HEIGHT

# Style -> package. Twemoji is only ever shown to a model that was trained without it.
STYLES = {
    "noto": "noto",
    "noto-v1": "noto-v1",
    "fluent": "fluent-emoji",
    "fluent-flat": "fluent-emoji-flat",
    "twemoji": "twemoji",
}

PRINTS = "prints"
FONT_FILES = ("DejaVuSansMono-Bold.ttf", "DejaVuSans-Bold.ttf")
# Height of their capitals and digits, in parts of the font size.
CAPITAL = 0.729

# What is fainter than this (of 255) is no part of the drawing when it is cropped.
FAINTEST = 20


def find_icon(icons: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Look an icon up in an icon set, through its aliases; None where the set has no such icon."""
    while name not in icons["icons"]:
        if name not in icons.get("aliases", {}):
            return None
        name = icons["aliases"][name]["parent"]
    return icons["icons"][name]


def draw(icons: dict[str, Any], icon: dict[str, Any], side: int) -> Image.Image:
    """Draw an icon, cropped to what is visible: RGBA, its longer side `side` pixels."""
    import resvg_py

    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )
    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * side)))).convert("RGBA")
    drawn = drawn.crop(drawn.getchannel("A").point(lambda value: 255 if value > FAINTEST else 0).getbbox())
    scale = side / max(drawn.size)
    size = max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))
    return drawn.resize(size, Image.Resampling.LANCZOS)


def draw_style(package: Path, side: int) -> dict[str, list[Image.Image]]:
    """Draw all icons that a set has of every object; an object of which it has none gets an empty list."""
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    drawn = {}
    for name, kind in OBJECTS.items():
        found = [icon for icon in (find_icon(icons, name) for name in kind.icons) if icon]
        drawn[name] = [draw(icons, icon, side) for icon in found]
    return drawn


def write_sheet(sprites: Mapping[str, Sequence[Image.Image]], folder: Path, style: str, columns: int = 12) -> Path:
    """Write drawings as a sheet into a folder and return the PNG's path. They are laid out on a grid, row by row."""
    drawn = [(name, sprite) for name, found in sprites.items() for sprite in found]
    cell = max(max(sprite.size) for _, sprite in drawn)
    sheet = Image.new("RGBA", (columns * cell, -(-len(drawn) // columns) * cell))
    boxes: dict[str, list[list[int]]] = {name: [] for name in sprites}
    for index, (name, sprite) in enumerate(drawn):
        left, top = index % columns * cell, index // columns * cell
        sheet.paste(sprite, (left, top))
        boxes[name].append([left, top, left + sprite.width, top + sprite.height])
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in boxes.items())
    (folder / f"{style}.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    path = folder / f"{style}.png"
    sheet.save(path, optimize=True)
    return path


def write_prints(folder: Path) -> Path:
    """Write the characters of print, a row for each font, and return the PNG's path."""
    height, width = CELL
    sheet = Image.new("L", (width * len(CHARACTERS), height * len(FONT_FILES)))
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(FONT_FILES):
        file = str(Path(get_data_path()) / "fonts" / "ttf" / name)
        font = ImageFont.truetype(file, round(HEIGHT / CAPITAL), layout_engine=ImageFont.Layout.BASIC)
        for column, character in enumerate(CHARACTERS):
            place = (column + 0.5) * width, row * height + EDGE + HEIGHT
            pen.text(place, character, fill=255, font=font, anchor="ms")
    path = folder / "prints.png"
    sheet.save(path, optimize=True)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a sheet for every style."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--styles", nargs="+", choices=[*STYLES, PRINTS], default=list(STYLES))
    parser.add_argument("--side", type=int, default=96, help="pixels of a sprite's longer side")
    options = parser.parse_args(arguments)
    for style in options.styles:
        if style == PRINTS:
            print(write_prints(options.output))
            continue
        sprites = draw_style(options.packages / STYLES[style] / "package", options.side)
        path = write_sheet(sprites, options.output, style)
        print(f"{path}: {sum(map(len, sprites.values()))} sprites, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
