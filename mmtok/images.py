"""Image files for everything in the package: commands, batches, the page, evaluation.

`open_image` is in the handler of an endpoint, which is published as a single file. So both read the same pixels and
refuse the same files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

from mmtok.hub.handler import FORMATS, open_image


def is_address(path: str | Path) -> bool:
    """Whether it is the address of something on the internet; a `Path` has lost one of the two slashes."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE))


def read_image(path: str | Path) -> Image.Image:
    """The image in a file, upright, as RGB.

    Raises:
        ValueError: it is an address, cannot be decoded, or has more than `MAX_PIXELS` pixels or a side that is over
            `MAX_ASPECT_RATIO` times the other. The message names the file.
    """
    if is_address(path):
        raise ValueError(f"{path} is an address, and only files are read: download it, and give the file.")
    try:
        with Path(path).open("rb") as file:
            return open_image(file)
    except OSError as error:
        reason = f"{error.strerror or error}."
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{path} cannot be read as an image: {reason}")


def image_size(path: str | Path) -> tuple[int, int] | None:
    """(width, height) of an image, upright, from its header; None for a file that is none."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(0x0112, 1) >= 5 else (width, height)
    except Exception:  # the readers of damaged files raise nearly everything
        return None


def cut_off(size: tuple[int, int], image_processor: Any) -> str:
    """What the image processor's centre crop leaves out of an image of (width, height); "" if nothing."""
    edge = (getattr(image_processor, "size", None) or {}).get("shortest_edge")
    crops = getattr(image_processor, "do_center_crop", False) and not hasattr(image_processor, "image_grid_pinpoints")
    if not crops or not edge or size[0] == size[1]:
        return ""
    seen = getattr(image_processor, "crop_size", None) or {}
    side = min(size) * min(1.0, seen.get("height", edge) / edge)
    lost = round(max(size) - side)
    where = "on the left and on the right" if size[0] > size[1] else "at the top and at the bottom"
    return (
        f"The model sees the middle square of {round(side)} x {round(side)} pixels alone: "
        f"{lost // 2} pixel{' is' if lost // 2 == 1 else 's are'} cut off {where}."
    )
