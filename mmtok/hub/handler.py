"""Answers requests to a Hugging Face Inference Endpoint; published as `handler.py` in the model's repository.

A request is {"inputs": ..., "parameters": {...}}. `inputs` is one of

    {"image": "<base64 or data URI>", "question": "Is there a dog?"}
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}, ...]}]}

or a list of them. `parameters` are arguments of `generate`, such as `max_new_tokens` and `vision_token_budget`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import torch
from transformers import pipeline
from transformers.image_utils import load_image

# What a request may set: lengths, sampling, and the knobs of the pruning that are no tables of token ids.
PARAMETERS: frozenset[str] = frozenset(
    {
        "budget_scope",
        "center_features",
        "coverage_target",
        "do_sample",
        "exclude_padding",
        "keep_image_newline",
        "max_new_tokens",
        "min_new_tokens",
        "num_beams",
        "repetition_penalty",
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
            ValueError: no inputs, an input in another form, a picture that is none, or a parameter that a request may
                not set. The message says what is accepted.
        """
        inputs, parameters = data.get("inputs"), dict(data.get("parameters") or {})
        unknown = sorted(set(parameters) - PARAMETERS)
        if unknown:
            raise ValueError(f"parameters has {', '.join(unknown)}: give {', '.join(sorted(PARAMETERS))}.")
        questions = inputs if isinstance(inputs, list) else [inputs]
        if not questions:
            raise ValueError("inputs is an empty list: give at least one question.")
        chats = [_chat(question) for question in questions]
        if "stop_strings" in parameters:
            parameters["tokenizer"] = self.pipeline.processor.tokenizer
        parameters.setdefault("max_new_tokens", 256)
        answers = [self.pipeline([chat], return_full_text=False, generate_kwargs=dict(parameters))[0] for chat in chats]
        records = [answer[0] if isinstance(answer, list) else answer for answer in answers]
        return [{"generated_text": record["generated_text"].strip()} for record in records]


def _chat(question: Any) -> list[dict[str, Any]]:
    """A conversation in the form of chat templates, its pictures opened."""
    if isinstance(question, dict) and isinstance(question.get("messages"), list):
        return [_message(message) for message in question["messages"]]
    if isinstance(question, dict) and isinstance(question.get("question"), str) and "image" in question:
        content = [
            {"type": "image", "image": _picture(question["image"])},
            {"type": "text", "text": question["question"]},
        ]
        return [{"role": "user", "content": content}]
    raise ValueError('An input is neither {"image": ..., "question": ...} nor {"messages": [...]}.')


def _message(message: Any) -> dict[str, Any]:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or message.get("role") not in ("system", "user", "assistant"):
        raise ValueError("A message needs a role (system, user or assistant) and content (text, or a list of parts).")
    return {"role": message["role"], "content": [_part(part) for part in content]}


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url" and isinstance(part.get("image_url"), dict):
        return {"type": "image", "image": _picture(part["image_url"].get("url"))}
    if kind == "image":
        return {"type": "image", "image": _picture(part.get("image"))}
    raise ValueError(f"A part of a message is of type {kind!r}: give text, image or image_url with what belongs to it.")


def _picture(value: Any) -> Any:
    """The picture in a base64 text or data URI; addresses and paths are refused, they would be read by the server."""
    if not isinstance(value, str):
        raise ValueError("A picture is no text: give it in base64, or as a data URI.")
    encoded = value.partition(",")[2] if value.startswith("data:image/") else value
    try:
        base64.b64decode(encoded, validate=True)
        return load_image("data:image/unknown;base64," + encoded)
    except (binascii.Error, ValueError, OSError) as error:
        raise ValueError("A picture cannot be read: give a PNG or JPEG in base64, or as a data URI.") from error
