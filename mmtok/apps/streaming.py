"""Streamed answers: what the page shows while the model generates."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TextIteratorStreamer

from mmtok.prefill import prompt_lengths

from .answer import Budget

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline


@dataclass(frozen=True)
class PartialAnswer:
    """An answer so far.

    Attributes:
        text: what has been generated.
        prompt_tokens: length of the prompt that reached the language model; 0 before it did.
        first_token: seconds from the call to the first new text; 0 before that.
        seconds: since the call.
        finished: whether this is all.
    """

    text: str
    prompt_tokens: int
    first_token: float
    seconds: float
    finished: bool


def stream_answer(
    pipe: ImageTextToTextPipeline, inputs: Mapping[str, Any], budget: Budget, *, max_new_tokens: int = 64
) -> Iterator[PartialAnswer]:
    """Yields the answer as it grows; the last one is finished.

    Args:
        pipe: from `mmtok.apps.answering.load_pipeline`.
        inputs: from `model_inputs`, with pixels or with `encoded_images`.
        budget: `vision_token_budget`; None for every token.
        max_new_tokens: most tokens of the answer.

    Raises:
        ValueError: whatever `generate` refuses.
    """
    streamer = TextIteratorStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    failures: list[BaseException] = []
    lengths: list[int] = []

    def generate() -> None:
        settings: dict[str, Any] = {"vision_token_budget": budget, "max_new_tokens": max_new_tokens}
        try:
            with prompt_lengths(pipe.model) as seen:
                pipe.model.generate(**inputs, **settings, do_sample=False, streamer=streamer)
            lengths.extend(seen)
        except BaseException as error:
            failures.append(error)
            streamer.end()

    began = time.perf_counter()
    worker = threading.Thread(target=generate, daemon=True)
    worker.start()
    text, first = "", 0.0
    for piece in streamer:
        if not piece:
            continue
        first = first or time.perf_counter() - began
        text += piece
        yield PartialAnswer(text.strip(), 0, first, time.perf_counter() - began, finished=False)
    worker.join()
    if failures:
        raise failures[0]
    yield PartialAnswer(text.strip(), lengths[0], first, time.perf_counter() - began, finished=True)
