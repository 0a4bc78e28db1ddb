"""Answers requests to a Hugging Face Inference Endpoint; published as `handler.py` in the model's repository.

A request is {"inputs": ..., "parameters": {...}}. `inputs` is one of

    {"image": "<base64 or data URI>", "question": "Is there a dog?"}
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}, ...]}]}

or a list of them. `parameters` are arguments of `generate`, such as `max_new_tokens` and `vision_token_budget`.

An endpoint imports this file alone, so it needs no file beside it. `open_image` is therefore here, and the commands and
the page of the package open their images with it too.
"""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from typing import Any, BinaryIO

import torch
from transformers import pipeline
from transformers.utils import is_vision_available

if is_vision_available():
    from PIL import Image, ImageOps, UnidentifiedImageError

# The largest image that is decoded, in pixels; PIL warns of a decompression bomb above the same number.
MAX_PIXELS = 89_478_485
# The processor scales the shorter side up to the vision tower's: a thin strip would become gigabytes.
MAX_ASPECT_RATIO = 200
# What a request may set: lengths, sampling, and the options of the pruning that are no tables of token ids.
PARAMETERS: frozenset[str] = frozenset(
    {
        "budget_scope",
        "coverage_target",
        "do_sample",
        "exclude_padding",
        "keep_image_newline",
        "max_new_tokens",
        "min_new_tokens",
        "num_beams",
        "repetition_penalty",
        "select_before_unpadding",
        "stop_strings",
        "temperature",
        "text_coverage_weight",
        "text_temperature",
        "text_temperature_unit",
        "top_k",
        "top_p",
        "vision_coverage_weight",
        "vision_temperature",
        "vision_token_budget",
        "vision_token_share",
    }
)


class EndpointHandler:
    """Loads the repository once and answers requests.

    Args:
        path: folder of the repository.
    """

    def __init__(self, path: str = "") -> None:
        device: dict[str, Any] = {"device": 0} if torch.cuda.is_available() else {}
        self.pipeline = pipeline("image-text-to-text", model=path, trust_remote_code=True, dtype="auto", **device)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, str]]:
        """Answers one request.

        Returns:
            [{"generated_text": answer}], one for each input.

        Raises:
            ValueError: a request, an input, an image or a parameter that cannot be used. The message says what can.
        """
        if not isinstance(data, dict):
            raise ValueError(f'The request is a {type(data).__name__}: give {{"inputs": ..., "parameters": {{...}}}}.')
        parameters = _parameters(data.get("parameters"))
        inputs = data.get("inputs")
        questions = inputs if isinstance(inputs, list) else [inputs]
        if not questions:
            raise ValueError("inputs is an empty list: give at least one question.")
        chats = [_chat(question) for question in questions]
        if "stop_strings" in parameters:
            parameters["tokenizer"] = self.pipeline.processor.tokenizer
        answers = [self.pipeline([chat], return_full_text=False, generate_kwargs=dict(parameters))[0] for chat in chats]
        records = [answer[0] if isinstance(answer, list) else answer for answer in answers]
        return [{"generated_text": record["generated_text"].strip()} for record in records]


def open_image(file: BinaryIO) -> Image.Image:
    """Reads an image as transformers' `load_image` does: upright, as RGB, the first frame of an animation.

    Args:
        file: open for reading bytes.

    Raises:
        ValueError: it cannot be decoded, or is too large or too thin. The message is the reason alone.
    """
    try:
        with Image.open(file) as image:
            refusal = size_refusal(*image.size)
            if not refusal:
                return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        refusal = f"it has more than {MAX_PIXELS:,} pixels: scale it down."
    except UnidentifiedImageError:
        refusal = "it is no image, or of an unknown format."
    except Exception as error:  # the decoders of damaged files raise nearly everything: SyntaxError, struct.error, ...
        refusal = f"{str(error).removesuffix('.') or type(error).__name__}."
    raise ValueError(refusal)


def size_refusal(width: int, height: int) -> str:
    """Why an image of this size is not decoded; "" if it is."""
    if width * height > MAX_PIXELS:
        return f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}: scale it down."
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return f"it has {width} x {height} pixels, one side over {MAX_ASPECT_RATIO} times the other: crop it."
    return ""


def _parameters(given: Any) -> dict[str, Any]:
    """Arguments of `generate`, with the default length of an answer."""
    if given is not None and not isinstance(given, dict):
        raise ValueError(f'parameters is a {type(given).__name__}: give an object such as {{"max_new_tokens": 64}}.')
    parameters = dict(given or {})
    unknown = sorted(str(name) for name in set(parameters) - PARAMETERS)
    if unknown:
        raise ValueError(f"parameters has {', '.join(unknown)}: give {', '.join(sorted(PARAMETERS))}.")
    return {"max_new_tokens": 256, **parameters}


def _chat(question: Any) -> list[dict[str, Any]]:
    """A conversation in the form of chat templates, its images opened."""
    if isinstance(question, dict) and isinstance(question.get("messages"), list):
        if not question["messages"]:
            raise ValueError("messages is an empty list: give at least one message of the user.")
        return [_message(message) for message in question["messages"]]
    if isinstance(question, dict) and isinstance(question.get("question"), str) and "image" in question:
        content = [
            {"type": "image", "image": _image(question["image"])},
            {"type": "text", "text": question["question"]},
        ]
        return [{"role": "user", "content": content}]
    raise ValueError('An input is neither {"image": ..., "question": ...} nor {"messages": [...]}.')


def _message(message: Any) -> dict[str, Any]:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content or message.get("role") not in ("system", "user", "assistant"):
        raise ValueError("A message needs a role (system, user or assistant) and content (text, or a list of parts).")
    return {"role": message["role"], "content": [_part(part) for part in content]}


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url" and isinstance(part.get("image_url"), dict):
        return {"type": "image", "image": _image(part["image_url"].get("url"))}
    if kind == "image":
        return {"type": "image", "image": _image(part.get("image"))}
    raise ValueError(f"A part of a message is of type {kind!r}: give text, image or image_url with what belongs to it.")


def _image(value: Any) -> Image.Image:
    """The image in a base64 text or data URI; addresses and paths are refused, because the server would read them."""
    if not isinstance(value, str):
        raise ValueError("An image is no text: give it in base64, or as a data URI.")
    encoded = value.partition(",")[2] if value.startswith("data:image/") else value
    try:
        return open_image(BytesIO(base64.b64decode(encoded, validate=True)))
    except (binascii.Error, ValueError) as error:
        reason = "it is not in base64." if isinstance(error, binascii.Error) else error
        raise ValueError(
            f"An image cannot be read: {reason} Give a PNG or JPEG in base64, or as a data URI."
        ) from error
