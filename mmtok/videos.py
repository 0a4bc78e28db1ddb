"""Videos for the commands: files that PyAV decodes, animated images, and folders with an image for each frame.

All frames that are read have together no more pixels than one image may have.
"""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from transformers import PretrainedConfig
from transformers.utils import is_torchvision_available

from mmtok import install_line
from mmtok.hub.families import FAMILIES, family_of
from mmtok.hub.handler import LIST_FPS, Video, frames_to_read, open_video
from mmtok.images import is_address, read_image
from mmtok.publish.hub import check_model_name

# Frames that are read unless it is said.
FRAMES = 8


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
    if is_address(path):
        raise ValueError(f"{path} is an address, and only files are read: download it, and give the file.")
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path, frames)
        with path.open("rb") as file:
            return open_video(file, frames)
    except OSError as error:
        reason = f"{(error.strerror or str(error)).removesuffix('.')}."
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{path} cannot be read as a video: {reason}")


def require_videos(model: str | Path, revision: str | None = None, called: str = "") -> None:
    """Raises a ValueError unless a model prunes videos and its processor can run.

    Args:
        model: folder or Hub id.
        revision: branch, tag or commit on the Hub.
        called: the model in the message; its folder or id unless given.
    """
    config, _ = PretrainedConfig.get_config_dict(check_model_name(model), revision=revision)
    family = family_of(config.get("model_type"))
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
    Image.init()
    known = Image.registered_extensions()
    files = [file for file in path.iterdir() if file.suffix.lower() in known and not file.name.startswith(".")]
    if len(files) < 2:
        held = f"the folder holds {len(files) or 'no'} image{'s' * (not files)}"
        raise ValueError(f"{held}: put in the frames, at least 2, as files such as 001.png.")
    files.sort(key=_in_order)
    images = [_image(files[0])]
    chosen = frames_to_read(len(files), most, images[0].size)
    for number in chosen[1:]:
        images.append(_image(files[number]))
        if images[-1].size != images[0].size:
            own, first = (f"{image.width} x {image.height}" for image in (images[-1], images[0]))
            raise ValueError(f"{files[number].name} has {own} pixels, and {files[0].name} {first}: give one size.")
    return Video(images, tuple(chosen), len(files), LIST_FPS)


def _in_order(file: Path) -> list[tuple[str, int]]:
    """A key that sorts 2.png in front of 10.png."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", file.name)]


def _image(file: Path) -> Image.Image:
    try:
        return read_image(file)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{file.parent}/")) from error
