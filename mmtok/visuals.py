"""Files of images and videos for everything in the package: commands, batches, the page, evaluation.

A video is a file that PyAV decodes, an animated image, or a folder with an image for each frame; all frames that are
read have together no more pixels than one image may have. `open_image` and `open_video` are in the handler of an
endpoint, which is published as a single file. So both read the same pixels and refuse the same files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.utils import is_torchvision_available

from mmtok import install_line
from mmtok.hub.families import FAMILIES
from mmtok.hub.handler import LIST_FPS, MAX_PIXELS, Video, frames_to_read, open_image, open_video
from mmtok.publish.hub import config_of

# Frames that are read unless it is said.
FRAMES = 8


def is_address(path: str | Path) -> bool:
    """Whether it is the address of something on the internet; a `Path` has lost one of the two slashes."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE))


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in a file, upright, as RGB.

    Raises:
        ValueError: it is an address, cannot be decoded, or has more than `max_pixels` pixels or a side that is over
            `MAX_ASPECT_RATIO` times the other. The message names the file.
    """
    with _refused_by_name(path, "an image") as file, file.open("rb") as content:
        return open_image(content, max_pixels)


def image_files(folder: Path) -> list[Path]:
    """The files of a folder that are images by their endings, in the order of their names: 2.png before 10.png."""
    Image.init()
    known = Image.registered_extensions()
    files = [file for file in folder.iterdir() if file.suffix.lower() in known and not file.name.startswith(".")]
    parts = {file: re.findall(r"(\D*)(\d*)", file.name) for file in files}
    return sorted(files, key=lambda file: [(text, int(digits or 0)) for text, digits in parts[file]])


def read_video(path: str | Path, frames: int) -> Video:
    """Reads evenly chosen frames of a video.

    Args:
        path: a video file, an animated GIF, PNG or WebP, or a folder with images of one size, the frames in the order
            of their names.
        frames: how many are read at most.

    Raises:
        ValueError: it is an address, cannot be decoded, has fewer than two frames, or frames that are too large, too
            thin or of different sizes. The message names the file.
    """
    with _refused_by_name(path, "a video") as file:
        if file.is_dir():
            return _folder(file, frames)
        with file.open("rb") as content:
            return open_video(content, frames)


@contextmanager
def _refused_by_name(path: str | Path, what: str) -> Iterator[Path]:
    """Yields the file; what cannot be read is a ValueError that names it."""
    if is_address(path):
        raise ValueError(f"{path} is an address, and only files are read: download it, and give the file.")
    try:
        yield Path(path)
    except OSError as error:
        reason = (error.strerror or str(error)).removesuffix(".")
        raise ValueError(f"{path} cannot be read as {what}: {reason}.") from None
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}/")  # of an image in a folder
        raise ValueError(f"{path} cannot be read as {what}: {reason}") from None


def cut_off(image: Image.Image | Video, image_processor: Any) -> str:
    """What the image processor's centre crop leaves out of an image; "" if nothing, as of a video."""
    if isinstance(image, Video):
        return ""
    size = image.size
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


def require_videos(model: str | Path, revision: str | None = None, called: str = "") -> None:
    """Raises a ValueError, which calls the model as given, unless it prunes videos and its processor can run."""
    _, family = config_of(model, revision)
    if not family.load_class().frame:
        titles = [each.title for each in FAMILIES.values() if each.is_available() and each.load_class().frame]
        raise ValueError(
            f"{called or model} is a {family.title}, whose videos are not pruned: give a model of "
            f"{', '.join(titles[:-1])} or {titles[-1]}, or ask about images."
        )
    if not is_torchvision_available():
        raise ValueError(
            f"transformers prepares videos with torchvision, which is missing: run {install_line('video')}."
        )


def _folder(path: Path, most: int) -> Video:
    files = image_files(path)
    if len(files) < 2:
        held = f"the folder holds {len(files) or 'no'} image{'s' * (not files)}"
        raise ValueError(f"{held}: put in the frames, at least 2, as files such as 001.png.")
    images = [read_image(files[0])]
    chosen = frames_to_read(len(files), most, images[0].size)
    for number in chosen[1:]:
        images.append(read_image(files[number]))
        if images[-1].size != images[0].size:
            own, first = (f"{image.width} x {image.height}" for image in (images[-1], images[0]))
            raise ValueError(f"{files[number].name} has {own} pixels, and {files[0].name} {first}: give one size.")
    return Video(images, tuple(chosen), len(files), LIST_FPS)
