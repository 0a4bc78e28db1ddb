"""Image files for everything in the package: commands, batches, the page, evaluation.

`open_image` is in the handler of an endpoint, which is published as a single file. So both read the same pixels and
refuse the same files.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mmtok.hub.handler import open_image


def read_image(path: str | Path) -> Image.Image:
    """The image in a file, upright, as RGB.

    Raises:
        ValueError: it cannot be decoded, or has more than `MAX_PIXELS` pixels or a side that is over
            `MAX_ASPECT_RATIO` times the other. The message names the file.
    """
    try:
        with Path(path).open("rb") as file:
            return open_image(file)
    except OSError as error:
        reason = f"{error.strerror or error}."
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{path} cannot be read as an image: {reason}")
