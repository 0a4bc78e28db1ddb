"""How long a model takes with several budgets: time to first token and total, medians on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from mmtok.evaluation.checkpoint import model_inputs
from mmtok.measuring import machine, prompt_lengths

from .answering import Budget

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline

    from mmtok.hub.handler import Video


@dataclass(frozen=True)
class Timing:
    """Median seconds of one budget.

    Attributes:
        budget: `vision_token_budget`; None for every token.
        prompt_tokens: length of the prompt that reached the language model.
        full_prompt_tokens: length of the whole prompt.
        first_token: from the processor's output to the first new token: vision tower, projector, selection, prefill.
        total: to the last new token.
        new_tokens: how many were made; the end of a sequence does not end them.
    """

    budget: Budget
    prompt_tokens: int
    full_prompt_tokens: int
    first_token: float
    total: float
    new_tokens: int


def time_budgets(
    pipe: ImageTextToTextPipeline,
    image: Image.Image | Video,
    question: str,
    budgets: Sequence[Budget],
    *,
    new_tokens: int = 16,
    repeats: int = 5,
    begin: Callable[[str], None] = lambda _: None,
    **pruning_options: Any,
) -> list[Timing]:
    """Times every budget in turn in every round, so that a disturbance of the machine affects all of them.

    Args:
        new_tokens: of the long answer, at least 2.
        repeats: rounds that count; one before them warms up.
        begin: called with the name of each round.
        **pruning_options: further options of the pruning, for every call.
    """
    inputs = model_inputs(pipe, image, question)
    first: list[list[float]] = [[] for _ in budgets]
    total: list[list[float]] = [[] for _ in budgets]
    read: list[list[int]] = [[] for _ in budgets]
    for turn in range(1 + repeats):
        begin(f"Round {turn} of {repeats}" if turn else "Warming up")
        for index, budget in enumerate(budgets):
            given = {**inputs, **pruning_options, "vision_token_budget": budget}
            with prompt_lengths(pipe.model) as read[index]:
                first[index].append(_seconds(pipe, given, 1))
            total[index].append(_seconds(pipe, given, new_tokens))
    full = inputs["input_ids"].shape[1]
    return [
        Timing(budget, read[index][0], full, median(first[index][1:]), median(total[index][1:]), new_tokens)
        for index, budget in enumerate(budgets)
    ]


def setting(pipe: ImageTextToTextPipeline) -> dict[str, str]:
    """Device, dtype, attention and versions of the measurement."""
    model, here = pipe.model, machine("transformers", "mmtok")
    name = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else here["processor"]
    return {
        "model": type(model).__name__,
        "device": f"{model.device.type} ({name})",
        "threads": str(here["threads"]),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": str(model.config.get_text_config()._attn_implementation),
        **here["versions"],
    }


def _seconds(pipe: ImageTextToTextPipeline, given: dict[str, Any], new_tokens: int) -> float:
    _wait(pipe.model.device)
    began = time.perf_counter()
    pipe.model.generate(**given, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
    _wait(pipe.model.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    """Waits until an accelerator has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
