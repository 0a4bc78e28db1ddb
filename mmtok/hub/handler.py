"""Answers requests to a Hugging Face Inference Endpoint; published as `handler.py` in the model's repository.

A request is {"inputs": ..., "parameters": {...}}. `inputs` is one of

    {"image": "<base64 or data URI>", "question": "Is there a dog?"}
    {"video": "<base64 or data URI, or a list of images>", "question": "Where is the ball?"}
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}, ...]}]}

or a list of them; parts of a message are text, image, image_url, video and video_url. `parameters` are arguments of
`generate`, such as `max_new_tokens` and `vision_token_budget`. What a request may ask for is bounded by `Limits`, which
the entry `handler_limits` of `config.json` changes:

    "handler_limits": {"images": 4, "new_tokens": 256}

An endpoint imports this file alone, so it needs no file beside it. `open_image`, `open_video` and `inputs_of` are
therefore here, and the commands and the page of the package use them too. Run as a program, this file decodes the
images and videos of a request, in a process with bounded time and memory: a small file can keep a decoder busy for
hours.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from io import BytesIO
from typing import Any, BinaryIO, ClassVar, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

if sys.platform != "win32":
    import resource

# The largest image that is decoded, in pixels; PIL warns of a decompression bomb above the same number.
MAX_PIXELS = 89_478_485
# The processor scales the shorter side up to the vision tower's: a thin strip would become gigabytes.
MAX_ASPECT_RATIO = 200
# The formats that are decoded. PIL knows more, and starts Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# The kinds of files that PyAV opens; others, such as playlists, name further files and addresses, and it opens those.
_VIDEO_FILES = {"format_whitelist": "mov,matroska,avi,mpegts,mpeg", "protocol_whitelist": "none"}
# Frames a second of a list of images, which says nothing of time, and of an animation that gives no duration.
LIST_FPS, _ANIMATION_FPS = 1.0, 10.0


class Limits(NamedTuple):
    """What one request may ask for; each is a whole number of at least 1.

    Attributes:
        questions: inputs of a request.
        images: of one question, beside one video.
        frames: of a video: a file is read in so many, evenly chosen; a list of images has at most as many.
        pixels: of all images and frames of one question.
        image_bytes: of all images and videos of a request, as files.
        characters: text of one question; a part of a message counts as one more.
        decode_seconds: to decode the images and the video of one question. Their memory is bounded by `pixels` and
            `image_bytes`.
        new_tokens: `max_new_tokens`, which is 256 where a request does not say, and `min_new_tokens`.
        answer_seconds: `max_time`, after which an answer ends with the tokens that it has.
        beams: `num_beams`.
    """

    questions: int = 8
    images: int = 8
    frames: int = 8
    pixels: int = 25_000_000
    image_bytes: int = 32_000_000
    characters: int = 20_000
    decode_seconds: int = 10
    new_tokens: int = 1024
    answer_seconds: int = 120
    beams: int = 4

    @classmethod
    def of(cls, given: Any) -> Limits:
        """The limits that were given by name, and the defaults of the others.

        Raises:
            ValueError: no mapping, a name that is not a limit, or a value that cannot be one.
        """
        if not isinstance(given, Mapping) or not set(given) <= set(cls._fields):
            raise ValueError(
                f"handler_limits is {_shown(given)}: give an object with some of {', '.join(cls._fields)}."
            )
        for name, value in given.items():
            if not _is_whole(value, 1):
                raise ValueError(f"The limit {name} is {_shown(value)}: give a whole number of at least 1.")
        return cls(**given)


class Video(NamedTuple):
    """The frames that are read of a video.

    Attributes:
        frames: RGB, of one size.
        indices: for each its number among all frames of the video, from 0.
        total: frames of the video.
        fps: frames a second of the video.
    """

    frames: list[Image.Image]
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
        width, height = self.frames[0].size
        return {
            "total_num_frames": self.total,
            "fps": self.fps,
            "duration": self.total / self.fps,
            "frames_indices": list(self.indices),
            "height": height,
            "width": width,
        }


class EndpointHandler:
    """Loads the repository once and answers requests.

    Args:
        path: folder of the repository.
        **limits: those of `Limits` that differ from what `config.json` and the defaults say.

    Raises:
        ValueError: a limit that cannot be one.
    """

    def __init__(self, path: str = "", **limits: int) -> None:
        # Here, because the process that decodes images needs neither.
        import torch
        from transformers import pipeline

        device: dict[str, Any] = {"device": 0} if torch.cuda.is_available() else {}
        self.pipeline = pipeline("image-text-to-text", model=path, trust_remote_code=True, dtype="auto", **device)
        self.config = self.pipeline.model.config
        self.limits = Limits.of({**(getattr(self.config, "handler_limits", None) or {}), **limits})
        # The options of the pruning, as the repository's own code knows them.
        self.options: Any = self.config.options_class
        self.no_videos = ""
        if not self.pipeline.model.video_arguments:
            self.no_videos = f"A model of type {self.config.model_type} does not prune videos: ask about images."
        elif getattr(self.pipeline.processor, "video_processor", None) is None:
            self.no_videos = (
                "transformers prepares videos with torchvision, which is missing on this server: install it."
            )

    def __call__(self, data: dict[str, Any]) -> list[dict[str, str]]:
        """Answers one request, question by question; the images and the video of one are decoded when it is its turn.

        Their headers are all read before that, with the first question.

        Returns:
            [{"generated_text": answer}], one for each input.

        Raises:
            ValueError: a request, an input, an image, a video or a parameter that cannot be used, or is over a limit.
                The message says what can.
        """
        if not isinstance(data, dict):
            raise ValueError(f'The request is a {type(data).__name__}: give {{"inputs": ..., "parameters": {{...}}}}.')
        parameters = self._parameters(data.get("parameters"))
        inputs = data.get("inputs")
        questions = inputs if isinstance(inputs, list) else [inputs]
        if not questions:
            raise ValueError("inputs is an empty list: give at least one question.")
        _at_most(len(questions), "questions", "inputs has {} questions", self.limits)
        chats = _Reader(self.limits, self.no_videos)
        read = [chats.chat(question) for question in questions]
        if "stop_strings" in parameters:
            parameters["tokenizer"] = self.pipeline.processor.tokenizer
        files = [[part["files"] for message in chat for part in message["content"] if "files" in part] for chat in read]
        answers = []
        for number, chat in enumerate(read):
            opened = decoded(files if number == 0 else [files[number]], self.limits)
            model, processor = self.pipeline.model, self.pipeline.processor
            inputs = inputs_of(processor, chat, opened)
            del opened  # before those of the next question are decoded
            output = model.generate(**inputs.to(model.device, dtype=model.dtype), **parameters)
            new = output[0, inputs["input_ids"].shape[1] :]
            answers.append({"generated_text": str(processor.decode(new, skip_special_tokens=True)).strip()})
        return answers

    def _parameters(self, given: Any) -> dict[str, Any]:
        """Checked arguments of `generate`, with the default length of an answer."""
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"parameters is a {type(given).__name__}: give an object.")
        given = dict(given or {})
        checks = _generation_checks(self.limits)
        options = {each.name for each in fields(self.options)}
        unknown = sorted(str(name) for name in given if name not in options | checks.keys())
        if unknown:
            names = ", ".join(sorted(options | checks.keys()))
            raise ValueError(f"parameters has {_shown(', '.join(unknown))}: give some of {names}.")
        for name in given.keys() & checks.keys():
            fits, wanted = checks[name]
            if not fits(given[name]):
                raise ValueError(f"{name} is {_shown(given[name])}: give {wanted}.")
        self.options.from_config(self.config, **{name: given[name] for name in given.keys() & options})
        lengths = {"max_new_tokens": min(256, self.limits.new_tokens), "max_time": self.limits.answer_seconds}
        parameters: dict[str, Any] = {**lengths, **given}
        if parameters.get("min_new_tokens", 0) > parameters["max_new_tokens"]:
            raise ValueError(
                f"min_new_tokens is {parameters['min_new_tokens']}, more than max_new_tokens, "
                f"{parameters['max_new_tokens']}: give at most as many."
            )
        for name in ("max_time", "repetition_penalty", "temperature", "top_p"):
            if name in parameters:
                parameters[name] = float(parameters[name])  # transformers refuses whole numbers
        return parameters


# What `generate` takes beside the options of the pruning: whether a value fits, and what is wanted.
Check = tuple[Callable[[Any], bool], str]


def _generation_checks(limits: Limits) -> dict[str, Check]:
    def whole(least: int, most: int) -> Check:
        return lambda value: _is_whole(value, least) and value <= most, f"a whole number from {least} to {most}"

    def number(least: float, most: float) -> Check:
        return lambda value: _is_number(value) and least <= value <= most, f"a number from {least:g} to {most:g}"

    return {
        "do_sample": (lambda value: isinstance(value, bool), "true or false"),
        "max_new_tokens": whole(1, limits.new_tokens),
        "max_time": number(0.01, limits.answer_seconds),
        "min_new_tokens": whole(0, limits.new_tokens),
        "num_beams": whole(1, limits.beams),
        "repetition_penalty": number(0.1, 10),
        "stop_strings": (_is_stop, "a text, or a list of at most 16 of them, each of 1 to 100 characters"),
        "temperature": number(0.01, 100),
        "top_k": whole(1, 1_000_000),
        "top_p": number(0.01, 1),
    }


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 1 <= len(texts) <= 16:
        return False
    return all(isinstance(text, str) and 1 <= len(text) <= 100 and is_utf8(text) for text in texts)


def is_utf8(value: str) -> bool:
    """Whether UTF-8 can hold it: not half of a surrogate pair."""
    return not any("\ud800" <= each <= "\udfff" for each in value)


def _shown(value: Any) -> str:
    """A value in a message: short, and without characters that a terminal obeys."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _at_most(number: int, limit: str, what: str, limits: Limits) -> None:
    most = getattr(limits, limit)
    if number > most:
        raise ValueError(f"{what.format(f'{number:,}')}: give at most {most:,} (the limit {limit}).")


def inputs_of(processor: Any, chat: list[dict[str, Any]], opened: list[Image.Image | Video]) -> Any:
    """What `generate` takes of a conversation, made as the processor's `apply_chat_template` makes it.

    That one lets nobody say when the frames of a video are shown.

    Args:
        processor: of the model.
        chat: messages with a list of parts each, the last of the user, or of the assistant to be continued.
        opened: the images and at most one video that the parts stand for, in order.
    """
    from transformers.video_utils import VideoMetadata

    continued = chat[-1]["role"] == "assistant"
    prompt = processor.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=not continued, continue_final_message=continued
    )
    begin = processor.tokenizer.bos_token
    named: dict[str, Any] = {"add_special_tokens": False} if begin and prompt.startswith(begin) else {}
    images = [each for each in opened if not isinstance(each, Video)]
    if images:
        named["images"] = [images]
    for video in opened:
        if isinstance(video, Video):
            named |= {
                "videos": [video.frames],
                "video_metadata": [VideoMetadata(**video.metadata)],
                "do_sample_frames": False,
                # Of the frames that are read: the seconds between two, before Qwen2.5-VL took the metadata's.
                "fps": len(video.indices) / video.total * video.fps,
            }
    return processor(text=[prompt], return_tensors="pt", **named)


class _Refusal(ValueError):
    """Why a file is not read; the message is the reason alone."""


def open_image(file: BinaryIO, max_pixels: int = MAX_PIXELS, *, decode: bool = True) -> Any:
    """Reads an image as transformers' `load_image` does: upright, as RGB, the first frame of an animation.

    Args:
        file: open for reading bytes; of one of `FORMATS`.
        max_pixels: more are not decoded.
        decode: False for its (width, height) alone, from the header.

    Raises:
        ValueError: it cannot be decoded, or is too large or too thin. The message is the reason alone.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            _require_size(image.size, max_pixels, "it has")
            return ImageOps.exif_transpose(image).convert("RGB") if decode else image.size
    except UnidentifiedImageError:
        raise _Refusal(f"it is not an image, or not one of {', '.join(FORMATS)}.") from None
    except Exception as error:
        raise _refusal(error, max_pixels, "it has") from None


def open_video(file: BinaryIO, most: int, max_pixels: int = MAX_PIXELS, *, decode: bool = True) -> Any:
    """Reads evenly chosen frames of an animated image, or of a video file, which PyAV decodes.

    Args:
        file: open for reading bytes.
        most: frames that are read at most.
        max_pixels: of all frames that are read.
        decode: False for the (width, height) of its frames below each other alone, from the header.

    Returns:
        `Video`

    Raises:
        ValueError: it cannot be decoded, has a single frame, or frames that are too large or too thin. The message is
            the reason alone.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            return _animation(image, most, max_pixels, decode)
    except UnidentifiedImageError:
        file.seek(0)
    except Exception as error:
        raise _refusal(error, max_pixels, "its frames have") from None
    try:
        return _video_file(file, most, max_pixels, decode)
    except _Refusal:
        raise
    except Exception as error:  # of a decoder: a file of another kind, or a damaged one
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _Refusal(f"PyAV says: {told.removesuffix('.')}: give a whole MP4, WebM, AVI or MPEG file.") from error


def _refusal(error: Exception, max_pixels: int, begin: str) -> _Refusal:
    """Why an image is not read; decoders of damaged files raise nearly everything: SyntaxError, struct.error, ..."""
    if isinstance(error, _Refusal):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return _Refusal(f"{begin} more than {max_pixels:,} pixels: scale it down.")
    return _Refusal(f"{str(error).removesuffix('.') or type(error).__name__}.")


def _require_size(size: tuple[int, int], max_pixels: int, begin: str) -> None:
    """Raises the refusal, which begins so, of an image of a (width, height) that is not decoded."""
    width, height = size
    if width * height > max_pixels:
        raise _Refusal(f"{begin} {width} x {height} pixels, more than {max_pixels:,}: scale it down.")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise _Refusal(f"{begin} {width} x {height} pixels, one side over {MAX_ASPECT_RATIO} times the other: crop it.")


def evenly(total: int, most: int) -> list[int]:
    """At most `most` numbers from 0 to below `total`, as transformers' `load_video` chooses frames."""
    count = min(total, most)
    return [number * total // count for number in range(count)]


def frames_to_read(total: int, most: int, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> list[int]:
    """The numbers of at most `most` frames of (width, height).

    Raises:
        ValueError: a single frame, or too large or too thin ones. The message is the reason alone.
    """
    _require_size(size, max_pixels, "its frames have")
    if total < 2:
        raise _Refusal("it has a single frame: ask about it as an image.")
    (width, height), count = size, min(total, most)
    if count * width * height > max_pixels:
        fit = max_pixels // (width * height)
        fewer = f"read at most {fit}, or " if fit > 1 else ""
        raise _Refusal(
            f"{count} frames of {width} x {height} pixels have more than {max_pixels:,}: {fewer}scale it down."
        )
    return evenly(total, most)


def _animation(image: Any, most: int, max_pixels: int, decode: bool) -> Any:
    total, (width, height) = getattr(image, "n_frames", 1), image.size
    chosen, frames, milliseconds = frames_to_read(total, most, image.size, max_pixels), [], 0.0
    if not decode:
        return width, len(chosen) * height
    for number in range(total):
        try:
            image.seek(number)
            frame = image.convert("RGB")
        except Exception as error:
            told = str(error).removesuffix(".") or type(error).__name__
            raise _Refusal(f"frame {number + 1} of {total} cannot be decoded: {told}.") from error
        milliseconds += image.info.get("duration", 0)
        if number in chosen:
            frames.append(frame)
    return Video(frames, tuple(chosen), total, 1000 * total / milliseconds if milliseconds else _ANIMATION_FPS)


def _video_file(file: BinaryIO, most: int, max_pixels: int, decode: bool) -> Any:
    try:
        import av
    except ImportError:
        raise _Refusal(
            "it is not an animated image, and PyAV, for other files, is missing: run pip install av."
        ) from None

    def opened() -> Any:
        file.seek(0)
        return av.open(file, container_options=_VIDEO_FILES)

    with opened() as container:
        if not container.streams.video:
            raise _Refusal("no frames are found in it: give a whole MP4, WebM, AVI or MPEG file.")
        stream = container.streams.video[0]
        # WebM does not say how many frames it has: they are counted without being decoded.
        total = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        size = stream.codec_context.width, stream.codec_context.height
        chosen = frames_to_read(total, most, size, max_pixels)
        if not decode:
            return size[0], len(chosen) * size[1]
        fps = float(stream.average_rate or stream.guessed_rate or _ANIMATION_FPS)
    frames = []
    with opened() as container:
        for number, frame in enumerate(container.decode(video=0)):
            if (frame.width, frame.height) != size:
                raise _Refusal("its frames change their size.")
            if number in chosen:
                frames.append(frame.to_image())
            if number == chosen[-1]:
                break
    # The number of frames that a file names is often one too large.
    if len(frames) < max(min(2, len(chosen)), len(chosen) - 1):
        raise _Refusal(f"only {len(frames)} of {len(chosen)} frames can be decoded: the file is damaged.")
    return Video(frames, tuple(chosen[: len(frames)]), total, fps)


# A part of a question as files: "image", "video", or "frames" with an image for each frame.
Part = tuple[str, list[bytes]]


def decoded(questions: list[list[Part]], limits: Limits) -> list[Image.Image | Video]:
    """The images and videos of the first question, upright, as RGB; of the others the headers alone are read.

    A process of its own decodes them, so that neither a file nor a fault of a decoder takes more than the limits allow.

    Raises:
        ValueError: one cannot be decoded, or is over a limit.
    """
    if not any(questions):
        return []
    # Besides Python and its libraries: files, and an image of 4 bytes a pixel in several states.
    memory = 512 * 2**20 + 4 * limits.image_bytes + 32 * limits.pixels
    asked = {
        "parts": [[[kind, [len(file) for file in files]] for kind, files in parts] for parts in questions],
        "limits": {"frames": limits.frames, "pixels": limits.pixels},
        "memory": memory,
    }
    try:
        ended = subprocess.run(
            [sys.executable, __file__, json.dumps(asked)],
            input=b"".join(file for parts in questions for _, files in parts for file in files),
            capture_output=True,
            timeout=limits.decode_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"The images of a question take longer to decode than {limits.decode_seconds} seconds (the limit "
            "decode_seconds): save them again as plain PNG or JPEG; of a video give fewer frames, as images."
        ) from None
    head, _, pixels = ended.stdout.partition(b"\n")
    if ended.returncode != 0:
        said = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ValueError(
            f"An image cannot be read: its decoder ended with code {ended.returncode}: {_shown(said)}. Save it again "
            "as plain PNG or JPEG."
        )
    found = json.loads(head)
    if "error" in found:
        raise ValueError(found["error"])
    opened: list[Image.Image | Video] = []
    given = BytesIO(pixels)
    for (width, height), video in found["parts"]:
        count = len(video["indices"]) if video else 1
        images = [Image.frombytes("RGB", (width, height), given.read(3 * width * height)) for _ in range(count)]
        opened.append(Video(images, tuple(video["indices"]), video["total"], video["fps"]) if video else images[0])
    return opened


def _decode(asked: dict[str, Any], given: BinaryIO, taken: BinaryIO) -> None:
    """What the process does.

    Args:
        asked: "parts" of each question with their sizes in bytes, "limits", and "memory" in bytes at most.
        given: the files.
        taken: gets a line of JSON, {"error": ...} or {"parts": [[[width, height], fields of a video or null], ...]},
            and all RGB pixels.
    """
    if sys.platform != "win32":
        with suppress(ValueError, OSError):  # the system has a lower limit
            resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    limits = Limits(**asked["limits"])
    questions = [
        [(kind, [BytesIO(given.read(size)) for size in sizes]) for kind, sizes in parts] for parts in asked["parts"]
    ]
    try:
        for parts in questions:
            sizes = [_opened(kind, files, limits, decode=False) for kind, files in parts]
            pixels = sum(width * height for width, height in sizes)
            _at_most(pixels, "pixels", "The images and frames of a question have {} pixels", limits)
        opened = [_opened(kind, files, limits, decode=True) for kind, files in questions[0]]
    except ValueError as error:
        taken.write(json.dumps({"error": str(error)}).encode())
        return
    images: list[Image.Image] = []
    head = []
    for each in opened:
        video = each._asdict() if isinstance(each, Video) else None
        images += video.pop("frames") if video else [each]
        head.append((images[-1].size, video))
    taken.write(json.dumps({"parts": head}).encode() + b"\n")
    for image in images:
        taken.write(image.tobytes())


def _opened(kind: str, files: list[BytesIO], limits: Limits, *, decode: bool) -> Any:
    """An image or video, or with `decode=False` its (width, height), of a video with its frames below each other."""
    try:
        if kind == "image":
            return open_image(files[0], limits.pixels, decode=decode)
        if kind == "video":
            return open_video(files[0], limits.frames, limits.pixels, decode=decode)
        frames = [open_image(file, limits.pixels, decode=decode) for file in files]
        sizes = [frame.size if decode else frame for frame in frames]
        if len(frames) < 2 or len(set(sizes)) > 1:
            given = " and ".join(dict.fromkeys(f"{width} x {height}" for width, height in sizes)) or "no"
            raise ValueError(f"it has {len(frames)} frames of {given} pixels: give at least 2, of one size.")
        if decode:
            return Video(frames, tuple(range(len(frames))), len(frames), LIST_FPS)
        return sizes[0][0], len(sizes) * sizes[0][1]
    except ValueError as error:
        raise ValueError(f"{'An image' if kind == 'image' else 'A video'} cannot be read: {error}") from error


class _Reader:
    """Reads the questions of one request and counts what is in them.

    Args:
        limits: of the request.
        no_videos: why there can be no videos; "" where there can.
    """

    def __init__(self, limits: Limits, no_videos: str) -> None:
        self._limits, self._no_videos = limits, no_videos
        self._bytes = self._images = self._videos = self._characters = 0

    def chat(self, question: Any) -> list[dict[str, Any]]:
        """A conversation in the form of chat templates, its images and its video as `Part` under "files"."""
        self._images = self._videos = self._characters = 0
        if isinstance(question, dict) and isinstance(question.get("messages"), list):
            if not question["messages"]:
                raise ValueError("messages is an empty list: give at least one message of the user.")
            return [self._message(message) for message in question["messages"]]
        if isinstance(question, dict) and isinstance(question.get("question"), str):
            seen = [read(self, question[name]) for name, read in self._KINDS.items() if name in question]
            if seen:
                return [{"role": "user", "content": [*seen, self._text(question["question"])]}]
        raise ValueError(
            'An input is neither {"image": ..., "question": ...} nor {"video": ..., "question": ...} nor '
            '{"messages": [...]}.'
        )

    def _message(self, message: Any) -> dict[str, Any]:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list) or not content or message.get("role") not in ("system", "user", "assistant"):
            raise ValueError(
                "A message needs a role (system, user or assistant) and content (text, or a list of parts)."
            )
        return {"role": message["role"], "content": [self._part(part) for part in content]}

    def _part(self, part: Any) -> dict[str, Any]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            return self._text(part["text"])
        for name, read in self._KINDS.items():
            if kind == name:
                return read(self, part.get(name))
            if kind == f"{name}_url" and isinstance(part.get(kind), dict):
                return read(self, part[kind].get("url"))
        raise ValueError(
            f"A part of a message is of type {_shown(kind)}: give text, image, image_url, video or video_url with what "
            "belongs to it."
        )

    def _text(self, text: str) -> dict[str, Any]:
        self._characters += len(text) + 1
        _at_most(self._characters, "characters", "A question has {} characters", self._limits)
        if not is_utf8(text):
            raise ValueError(f"The text {_shown(text)} has half of a surrogate pair, which is not text: leave it out.")
        return {"type": "text", "text": text}

    def _image(self, value: Any) -> dict[str, Any]:
        self._images += 1
        _at_most(self._images, "images", "A question has {} images", self._limits)
        return {"type": "image", "files": ("image", [self._file("An image", value)])}

    def _video(self, value: Any) -> dict[str, Any]:
        if self._no_videos:
            raise ValueError(self._no_videos)
        self._videos += 1
        if self._videos > 1:
            raise ValueError(f"A question has {self._videos} videos: give at most 1.")
        if not isinstance(value, list):
            return {"type": "video", "files": ("video", [self._file("A video", value)])}
        _at_most(len(value), "frames", "A video has {} frames", self._limits)
        return {"type": "video", "files": ("frames", [self._file("A frame", each) for each in value])}

    def _file(self, name: str, value: Any) -> bytes:
        """What is in a base64 text or data URI; addresses and paths are refused: the server would read them."""
        if not isinstance(value, str):
            raise ValueError(f"{name} is {_shown(value)}, not a text: give it in base64, or as a data URI.")
        encoded = value.partition(",")[2] if value.startswith(("data:image/", "data:video/")) else value
        self._bytes += len(encoded) * 3 // 4
        _at_most(self._bytes, "image_bytes", "The images and videos of the request have {} bytes", self._limits)
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError as error:  # also binascii's, and that of text that is not ASCII
            raise ValueError(
                f"{name} cannot be read: it is not in base64. Give the file in base64, or as a data URI."
            ) from error

    _KINDS: ClassVar = {"image": _image, "video": _video}


if __name__ == "__main__":
    _decode(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
