"""Answers requests to a Hugging Face Inference Endpoint; published as `handler.py` in the model's repository.

A request is {"inputs": ..., "parameters": {...}}. `inputs` is one of

    {"image": "<base64 or data URI>", "question": "Is there a dog?"}
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}, ...]}]}

or a list of them. `parameters` are arguments of `generate`, such as `max_new_tokens` and `vision_token_budget`. What a
request may ask for is bounded by `Limits`, which the entry `handler_limits` of `config.json` changes:

    "handler_limits": {"images": 4, "new_tokens": 256}

An endpoint imports this file alone, so it needs no file beside it. `open_image` is therefore here, and the commands and
the page of the package open their images with it too. Run as a program, this file decodes the images of a request, in a
process with bounded time and memory: a small file can keep a decoder busy for hours.
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
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

if sys.platform != "win32":
    import resource

# The largest image that is decoded, in pixels; PIL warns of a decompression bomb above the same number.
MAX_PIXELS = 89_478_485
# The processor scales the shorter side up to the vision tower's: a thin strip would become gigabytes.
MAX_ASPECT_RATIO = 200
# The formats that are decoded. PIL knows more, and starts Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class Limits(NamedTuple):
    """What one request may ask for; each is a whole number of at least 1.

    Attributes:
        questions: inputs of a request.
        images: of one question.
        pixels: of all images of one question.
        image_bytes: of all images of a request, as files.
        characters: text of one question; a part of a message counts as one more.
        decode_seconds: to decode the images of one question. Their memory is bounded by `pixels` and `image_bytes`.
        new_tokens: `max_new_tokens`, which is 256 where a request does not say, and `min_new_tokens`.
        answer_seconds: `max_time`, after which an answer ends with the tokens that it has.
        beams: `num_beams`.
    """

    questions: int = 8
    images: int = 8
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
            ValueError: no mapping, a name that is no limit, or a value that cannot be one.
        """
        if not isinstance(given, Mapping) or not set(given) <= set(cls._fields):
            raise ValueError(
                f"handler_limits is {_shown(given)}: give an object with some of {', '.join(cls._fields)}."
            )
        for name, value in given.items():
            if not _is_whole(value, 1):
                raise ValueError(f"The limit {name} is {_shown(value)}: give a whole number of at least 1.")
        return cls(**given)


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

    def __call__(self, data: dict[str, Any]) -> list[dict[str, str]]:
        """Answers one request, question by question; the images of one are decoded when it is its turn.

        Their headers are all read before that, with the first question.

        Returns:
            [{"generated_text": answer}], one for each input.

        Raises:
            ValueError: a request, an input, an image or a parameter that cannot be used, or is over a limit. The
                message says what can.
        """
        if not isinstance(data, dict):
            raise ValueError(f'The request is a {type(data).__name__}: give {{"inputs": ..., "parameters": {{...}}}}.')
        parameters = self._parameters(data.get("parameters"))
        inputs = data.get("inputs")
        questions = inputs if isinstance(inputs, list) else [inputs]
        if not questions:
            raise ValueError("inputs is an empty list: give at least one question.")
        _at_most(len(questions), "questions", "inputs has {} questions", self.limits)
        chats = _Reader(self.limits)
        read = [chats.chat(question) for question in questions]
        if "stop_strings" in parameters:
            parameters["tokenizer"] = self.pipeline.processor.tokenizer
        files = [_files(chat) for chat in read]
        answers = []
        for number, chat in enumerate(read):
            images = decoded(files if number == 0 else [files[number]], self.limits)
            answers.append({"generated_text": self._answer(chat, images, dict(parameters))})
            del images  # before those of the next question are decoded
        return answers

    def _answer(self, chat: list[dict[str, Any]], images: list[Image.Image], parameters: dict[str, Any]) -> str:
        there = iter(images)
        opened = [
            {
                **message,
                "content": [{**part, "image": next(there)} if "image" in part else part for part in message["content"]],
            }
            for message in chat
        ]
        answer = self.pipeline([opened], return_full_text=False, generate_kwargs=parameters)[0]
        record = answer[0] if isinstance(answer, list) else answer
        return str(record["generated_text"]).strip()

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
    return all(isinstance(text, str) and 1 <= len(text) <= 100 and is_text(text) for text in texts)


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    """A value in a message: short, and without characters that a terminal obeys."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _at_most(number: int, limit: str, what: str, limits: Limits) -> None:
    most = getattr(limits, limit)
    if number > most:
        raise ValueError(f"{what.format(f'{number:,}')}: give at most {most:,} (the limit {limit}).")


def open_image(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads an image as transformers' `load_image` does: upright, as RGB, the first frame of an animation.

    Args:
        file: open for reading bytes; of one of `FORMATS`.
        max_pixels: more are not decoded.

    Raises:
        ValueError: it cannot be decoded, or is too large or too thin. The message is the reason alone.
    """
    return _read(file, max_pixels, decode=True)


def _read(file: BinaryIO, max_pixels: int, *, decode: bool) -> Any:
    """The image, or with `decode=False` its (width, height), from the header alone."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            refusal = size_refusal(width, height, max_pixels)
            if not refusal:
                return ImageOps.exif_transpose(image).convert("RGB") if decode else image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        refusal = f"it has more than {max_pixels:,} pixels: scale it down."
    except UnidentifiedImageError:
        refusal = f"it is no image, or not one of {', '.join(FORMATS)}."
    except Exception as error:  # the decoders of damaged files raise nearly everything: SyntaxError, struct.error, ...
        refusal = f"{str(error).removesuffix('.') or type(error).__name__}."
    raise ValueError(refusal)


def size_refusal(width: int, height: int, max_pixels: int = MAX_PIXELS) -> str:
    """Why an image of this size is not decoded; "" if it is."""
    if width * height > max_pixels:
        return f"it has {width} x {height} pixels, more than {max_pixels:,}: scale it down."
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return f"it has {width} x {height} pixels, one side over {MAX_ASPECT_RATIO} times the other: crop it."
    return ""


def _files(chat: list[dict[str, Any]]) -> list[bytes]:
    """The images of a conversation that `_Reader` read, as files."""
    return [part["image"] for message in chat for part in message["content"] if "image" in part]


def decoded(questions: list[list[bytes]], limits: Limits) -> list[Image.Image]:
    """The images of the first question, upright, as RGB; of the others the headers alone are read.

    A process of its own decodes them, so that neither a file nor a fault of a decoder takes more than the limits allow.

    Args:
        questions: the image files of each question.
        limits: of pixels, and of the seconds that this may take.

    Raises:
        ValueError: an image cannot be decoded, or is over a limit.
    """
    if not any(questions):
        return []
    # Besides Python and its libraries: files, and an image of 4 bytes a pixel in several states.
    memory = 512 * 2**20 + 4 * limits.image_bytes + 32 * limits.pixels
    asked = {
        "sizes": [[len(file) for file in files] for files in questions],
        "pixels": limits.pixels,
        "memory": memory,
    }
    try:
        ended = subprocess.run(
            [sys.executable, __file__, json.dumps(asked)],
            input=b"".join(file for files in questions for file in files),
            capture_output=True,
            timeout=limits.decode_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"The images of a question take longer to decode than {limits.decode_seconds} seconds (the limit "
            "decode_seconds): save them again as plain PNG or JPEG."
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
    images, begin = [], 0
    for width, height in found["sizes"]:
        end = begin + 3 * width * height
        images.append(Image.frombytes("RGB", (width, height), pixels[begin:end]))
        begin = end
    return images


def _decode(asked: dict[str, Any], given: BinaryIO, taken: BinaryIO) -> None:
    """What the process does.

    Args:
        asked: "sizes" in bytes of the files of each question, "pixels" of a question and "memory" in bytes at most.
        given: the files.
        taken: gets a line of JSON, {"error": ...} or {"sizes": [[width, height], ...]}, and all RGB pixels.
    """
    if sys.platform != "win32":
        with suppress(ValueError, OSError):  # the system has a lower limit
            resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    limits = Limits(pixels=asked["pixels"])
    questions = [[BytesIO(given.read(size)) for size in sizes] for sizes in asked["sizes"]]
    try:
        for files in questions:
            sizes = [_read(file, limits.pixels, decode=False) for file in files]
            pixels = sum(width * height for width, height in sizes)
            _at_most(pixels, "pixels", "the images of its question have {} pixels", limits)
        images = [open_image(file, limits.pixels) for file in questions[0]]
    except ValueError as error:
        taken.write(json.dumps({"error": f"An image cannot be read: {error}"}).encode())
        return
    taken.write(json.dumps({"sizes": [image.size for image in images]}).encode() + b"\n")
    for image in images:
        taken.write(image.tobytes())


class _Reader:
    """Reads the questions of one request and counts what is in them.

    Args:
        limits: of the request.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = self._images = self._characters = 0

    def chat(self, question: Any) -> list[dict[str, Any]]:
        """A conversation in the form of chat templates, its images as files."""
        self._images = self._characters = 0
        if isinstance(question, dict) and isinstance(question.get("messages"), list):
            if not question["messages"]:
                raise ValueError("messages is an empty list: give at least one message of the user.")
            return [self._message(message) for message in question["messages"]]
        if isinstance(question, dict) and isinstance(question.get("question"), str) and "image" in question:
            content = [self._image(question["image"]), self._text(question["question"])]
            return [{"role": "user", "content": content}]
        raise ValueError('An input is neither {"image": ..., "question": ...} nor {"messages": [...]}.')

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
        if kind == "image_url" and isinstance(part.get("image_url"), dict):
            return self._image(part["image_url"].get("url"))
        if kind == "image":
            return self._image(part.get("image"))
        raise ValueError(
            f"A part of a message is of type {_shown(kind)}: give text, image or image_url with what belongs to it."
        )

    def _text(self, text: str) -> dict[str, Any]:
        self._characters += len(text) + 1
        _at_most(self._characters, "characters", "A question has {} characters", self._limits)
        if not is_text(text):
            raise ValueError(f"The text {_shown(text)} has half of a surrogate pair, which is no text: leave it out.")
        return {"type": "text", "text": text}

    def _image(self, value: Any) -> dict[str, Any]:
        """The image in a base64 text or data URI; addresses and paths are refused: the server would read them."""
        if not isinstance(value, str):
            raise ValueError(f"An image is {_shown(value)}, no text: give it in base64, or as a data URI.")
        self._images += 1
        _at_most(self._images, "images", "A question has {} images", self._limits)
        encoded = value.partition(",")[2] if value.startswith("data:image/") else value
        self._bytes += len(encoded) * 3 // 4
        _at_most(self._bytes, "image_bytes", "The images of the request have {} bytes", self._limits)
        try:
            content = base64.b64decode(encoded, validate=True)
        except ValueError as error:  # also binascii's, and that of text that is not ASCII
            raise ValueError(
                "An image cannot be read: it is not in base64. Give a PNG or JPEG in base64, or as a data URI."
            ) from error
        return {"type": "image", "image": content}


if __name__ == "__main__":
    _decode(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
