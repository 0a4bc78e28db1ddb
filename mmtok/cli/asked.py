"""What questions are about: an image, or with `--video` a video. Refused before a model is loaded."""

from __future__ import annotations

import argparse
import os
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING

from .common import base_of
from .values import at_least

if TYPE_CHECKING:
    from PIL import Image

    from mmtok.videos import Video

_FRAMES = 8


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """`--video` and `--frames`."""
    parser.add_argument(
        "--video",
        action="store_true",
        help="IMAGE is a video: a video file, an animated GIF, PNG or WebP, or a folder with an image for each frame "
        "(one a second, in the order of their names); a budget then holds for each frame, of Qwen-VL for each pair",
    )
    parser.add_argument(
        "--frames",
        metavar="N",
        type=at_least(2),
        help=f"frames of a --video that are read at most, evenly chosen (default: {_FRAMES})",
    )


def asked_about(options: argparse.Namespace) -> Image.Image | Video:
    """The image or video of a command.

    Raises:
        ValueError: one that cannot be read, options that mean nothing for it, or a video for a model whose videos are
            not pruned, or while torchvision is missing.
    """
    from mmtok.images import read_image
    from mmtok.videos import read_video

    path = options.image
    if options.video:
        _require_videos(options)
        return read_video(path, options.frames or _FRAMES)
    if options.frames is not None:
        raise ValueError(f"--frames {options.frames} is for videos: give --video too, or leave it out.")
    kind = "a folder" if path.is_dir() else "a video" if _is_video(path) else ""
    if kind:
        raise ValueError(f"{path} is {kind}: give --video to ask about its frames.")
    return read_image(path)


def _is_video(path: Path) -> bool:
    return str(guess_type(path.name)[0]).startswith("video/")


def _require_videos(options: argparse.Namespace) -> None:
    """Raises unless the model prunes videos and its processor can run."""
    from transformers import PretrainedConfig
    from transformers.utils import is_torchvision_available

    from mmtok.hub.families import FAMILIES, family_of
    from mmtok.publish.hub_names import check_model_name

    if options.exclude_padding is not None:
        raise ValueError("--exclude-padding means nothing for a video, whose frames are not padded: leave it out.")
    model = check_model_name(base_of(options.model))
    config, _ = PretrainedConfig.get_config_dict(os.fspath(model), revision=options.revision)
    family = family_of(config.get("model_type"))
    if not family.load_class().frame:
        titles = [each.title for each in FAMILIES.values() if each.load_class().frame]
        raise ValueError(
            f"--model {options.model} is a {family.title}, whose videos are not pruned: give a model of "
            f"{', '.join(titles[:-1])} or {titles[-1]}, or ask about an image, without --video."
        )
    if not is_torchvision_available():
        raise ValueError(
            "transformers prepares videos with torchvision, which is missing: run pip install torchvision."
        )
