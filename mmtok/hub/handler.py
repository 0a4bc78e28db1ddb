"""Answers requests to a Hugging Face Inference Endpoint; published as `handler.py` in the model's repository.

A request is {"inputs": ..., "parameters": {...}}. `inputs` is one of

    {"image": "<base64 or data URI>", "question": "Is there a dog?"}
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}, ...]}]}

or a list of them. `parameters` are arguments of `generate`, such as `max_new_tokens` and `vision_token_budget`. What a
request may ask for is bounded by `Limits`, which the entry `handler_limits` of `config.json` changes:

    "handler_limits": {"images": 4, "new_tokens": 256}

An endpoint imports this file alone, so it needs no file beside it. `open_image` is therefore here, and the commands and
the page of the package open their images with it too.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import fields
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import torch
from transformers import pipeline
from transformers.utils import is_vision_available

if is_vision_available():
    from PIL import Image, ImageOps, UnidentifiedImageError

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
        new_tokens: `max_new_tokens`, which is 256 where a request does not say, and `min_new_tokens`.
        beams: `num_beams`.
    """

    questions: int = 8
    images: int = 8
    pixels: int = 25_000_000
    image_bytes: int = 32_000_000
    characters: int = 20_000
    new_tokens: int = 1024
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
        device: dict[str, Any] = {"device": 0} if torch.cuda.is_available() else {}
        self.pipeline = pipeline("image-text-to-text", model=path, trust_remote_code=True, dtype="auto", **device)
        self.config = self.pipeline.model.config
        self.limits = Limits.of({**(getattr(self.config, "handler_limits", None) or {}), **limits})
        # The options of the pruning, as the repository's own code knows them.
        self.options: Any = self.config.options_class

    def __call__(self, data: dict[str, Any]) -> list[dict[str, str]]:
        """Answers one request, question by question; the images of one are decoded when it is its turn.

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
        return [{"generated_text": self._answer(chat, dict(parameters))} for chat in read]

    def _answer(self, chat: list[dict[str, Any]], parameters: dict[str, Any]) -> str:
        opened = [{**message, "content": [_opened(part) for part in message["content"]]} for message in chat]
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
        parameters = {"max_new_tokens": min(256, self.limits.new_tokens), **given}
        if parameters.get("min_new_tokens", 0) > parameters["max_new_tokens"]:
            raise ValueError(
                f"min_new_tokens is {parameters['min_new_tokens']}, more than max_new_tokens, "
                f"{parameters['max_new_tokens']}: give at most as many."
            )
        for name in ("repetition_penalty", "temperature", "top_p"):
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


class _File(NamedTuple):
    """An image of a request that is not decoded yet."""

    content: bytes
    max_pixels: int


def _opened(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a message with its image decoded."""
    if part["type"] != "image":
        return part
    file: _File = part["image"]
    try:
        return {**part, "image": open_image(BytesIO(file.content), file.max_pixels)}
    except ValueError as error:
        raise ValueError(f"An image cannot be read: {error}") from error


class _Reader:
    """Reads the questions of one request and counts what is in them.

    Args:
        limits: of the request.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = self._images = self._pixels = self._characters = 0

    def chat(self, question: Any) -> list[dict[str, Any]]:
        """A conversation in the form of chat templates, its images as files."""
        self._images = self._pixels = self._characters = 0
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
            width, height = _read(BytesIO(content), self._limits.pixels, decode=False)
        except (binascii.Error, ValueError) as error:
            # Text that is not ASCII is a ValueError of its own.
            is_base64 = not isinstance(error, binascii.Error) and encoded.isascii()
            reason = error if is_base64 else "it is not in base64."
            raise ValueError(
                f"An image cannot be read: {reason} Give a PNG or JPEG in base64, or as a data URI."
            ) from error
        self._pixels += width * height
        _at_most(self._pixels, "pixels", "The images of a question have {} pixels", self._limits)
        return {"type": "image", "image": _File(content, self._limits.pixels)}
