"""Videos for the commands: files that PyAV decodes, animated images, and folders with an image for each frame.

All frames that are read have together no more pixels than one image may have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from transformers import PretrainedConfig
from transformers.utils import is_av_available, is_torchvision_available
from transformers.video_utils import VideoMetadata, load_video

from mmtok import install_line
from mmtok.hub.families import FAMILIES, family_of
from mmtok.hub.handler import MAX_PIXELS, size_refusal
from mmtok.images import is_address, read_image
from mmtok.publish.hub import check_model_name

# Frames that are read unless it is said.
FRAMES = 8
# Frames a second of a folder, which says nothing of time, and of an animation that gives its frames no duration.
_FOLDER_FPS, _ANIMATION_FPS = 1.0, 10.0


class _Refusal(ValueError):
    """Why a video is not read; the message is the reason alone."""


@dataclass(frozen=True)
class Video:
    """The frames that are read of a video.

    Attributes:
        frames: (n, height, width, 3) uint8, RGB.
        indices: for each its number among all frames of the video, from 0.
        total: frames of the video.
        fps: frames a second of the video.
    """

    frames: np.ndarray
    indices: tuple[int, ...]
    total: int
    fps: float

    @property
    def seconds(self) -> list[float]:
        """When each frame is shown."""
        return [index / self.fps for index in self.indices]

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields of transformers' `VideoMetadata`."""
        _, height, width, _ = self.frames.shape
        return {
            "total_num_frames": self.total,
            "fps": self.fps,
            "duration": self.total / self.fps,
            "frames_indices": list(self.indices),
            "height": height,
            "width": width,
        }


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
        return _animation(path, frames) or _video_file(path, frames)
    except _Refusal as refusal:
        reason = str(refusal)
    except Image.DecompressionBombError:
        reason = _TOO_LARGE
    except OSError as error:
        reason = f"{(error.strerror or str(error)).removesuffix('.')}."
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


def video_inputs(processor: Any, video: Video, question: str) -> Any:
    """What the processor makes of a question about a video, whose frames are chosen."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return processor(
        text=[prompt],
        videos=[video.frames],
        video_metadata=[VideoMetadata(**video.metadata)],
        do_sample_frames=False,
        # Of the frames that are read: the seconds between two of Qwen2.5-VL before transformers took the metadata's.
        fps=len(video.indices) / video.total * video.fps,
        return_tensors="pt",
    )


def evenly(total: int, most: int) -> list[int]:
    """At most `most` numbers from 0 to below `total`, as transformers' `load_video` chooses frames."""
    count = min(total, most)
    return [number * total // count for number in range(count)]


_TOO_LARGE = f"its frames have more than {MAX_PIXELS:,} pixels: scale it down."


def _chosen(total: int, most: int, size: tuple[int, int]) -> list[int]:
    """The frames to read of so many of (width, height)."""
    width, height = size
    refusal = size_refusal(width, height)
    if refusal:
        raise _Refusal(refusal.replace("it has", "its frames have", 1))
    if total < 2:
        raise _Refusal("it has a single frame: ask about it as an image, without --video.")
    chosen = evenly(total, most)
    if len(chosen) * width * height > MAX_PIXELS:
        fit = MAX_PIXELS // (width * height)
        fewer = f"give --frames {fit}, or " if fit > 1 else ""
        raise _Refusal(
            f"{len(chosen)} frames of {width} x {height} pixels have more than {MAX_PIXELS:,}: {fewer}scale it down."
        )
    return chosen


def _folder(path: Path, most: int) -> Video:
    Image.init()
    known = Image.registered_extensions()
    files = [file for file in path.iterdir() if file.suffix.lower() in known and not file.name.startswith(".")]
    if len(files) < 2:
        held = f"the folder holds {len(files) or 'no'} image{'s' * (not files)}"
        raise _Refusal(f"{held}: put in the frames, at least 2, as files such as 001.png.")
    files.sort(key=_in_order)
    images = [_image(files[0])]
    chosen = _chosen(len(files), most, images[0].size)
    for number in chosen[1:]:
        images.append(_image(files[number]))
        if images[-1].size != images[0].size:
            own, first = (f"{image.width} x {image.height}" for image in (images[-1], images[0]))
            raise _Refusal(f"{files[number].name} has {own} pixels, and {files[0].name} {first}: give one size.")
    return Video(_stacked(images), tuple(chosen), len(files), _FOLDER_FPS)


def _in_order(file: Path) -> list[tuple[str, int]]:
    """A key that sorts 2.png in front of 10.png."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", file.name)]


def _image(file: Path) -> Image.Image:
    try:
        return read_image(file)
    except ValueError as error:
        raise _Refusal(str(error).removeprefix(f"{file.parent}/")) from error


def _animation(path: Path, most: int) -> Video | None:
    """The frames of a file that Pillow decodes; None for one that it does not know."""
    with path.open("rb") as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            return None
        with image:
            if image.format == "MPEG":  # of which Pillow reads the size alone
                return None
            total = getattr(image, "n_frames", 1)
            chosen, frames, milliseconds = _chosen(total, most, image.size), [], 0.0
            for number in range(total):
                try:
                    image.seek(number)
                    image.load()
                except Exception as error:  # damaged files raise nearly everything, as in `open_image`
                    told = str(error).removesuffix(".") or type(error).__name__
                    raise _Refusal(f"frame {number + 1} of {total} cannot be decoded: {told}.") from error
                milliseconds += image.info.get("duration", 0)
                if number in chosen:
                    frames.append(image.convert("RGB"))
    return Video(
        _stacked(frames), tuple(chosen), total, 1000 * total / milliseconds if milliseconds else _ANIMATION_FPS
    )


def _stacked(frames: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in frames])


def _video_file(path: Path, most: int) -> Video:
    """The frames that PyAV decodes, through transformers."""
    if not is_av_available():
        raise _Refusal("it is no animated image, and for other files PyAV is missing: run pip install av.")

    def chosen(metadata: Any, **_: Any) -> list[int]:
        # Some formats, such as WebM, do not say how many frames they have.
        metadata.total_num_frames = metadata.total_num_frames or _packets(path)
        return _chosen(metadata.total_num_frames, most, (metadata.width, metadata.height))

    try:
        frames, metadata = load_video(str(path), backend="pyav", sample_indices_fn=chosen)
    except _Refusal:
        raise
    except Exception as error:  # of a decoder: a file of another kind, a damaged one, one without a video stream
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _Refusal(f"PyAV says: {told.removesuffix('.')}.") from error
    indices = metadata.frames_indices
    # The number of frames that a file names is often one too large.
    if len(frames) < max(2, len(indices) - 1):
        raise _Refusal(f"only {len(frames)} of {len(indices)} frames can be decoded: the file is damaged.")
    return Video(np.asarray(frames), tuple(indices[: len(frames)]), metadata.total_num_frames, metadata.fps)


def _packets(path: Path) -> int:
    """Frames of a video file, counted without decoding them."""
    import av

    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))
