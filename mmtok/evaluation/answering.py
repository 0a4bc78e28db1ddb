"""One batch of questions answered: by the model's own pruning, or with the tokens that a selector keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .checkpoint import Checkpoint
from .encoded import EncodedBatch
from .selectors import ModelPruning, Selector


@torch.no_grad()
def answer_by_model(
    checkpoint: Checkpoint,
    inputs: Mapping[str, torch.Tensor],
    method: ModelPruning | None,
    budget: int | None,
    max_new_tokens: int,
) -> tuple[list[str], list[int]]:
    """The model's own `generate`, end to end.

    Args:
        checkpoint: the model.
        inputs: a batch.
        method: with which knobs; None, together with a budget of None, for the full prompt.
        budget: `vision_token_budget`.
        max_new_tokens: length of an answer.

    Returns:
        The answers, and how many vision tokens the language model read for each.
    """
    knobs = {} if method is None else dict(method.knobs)
    with _prefill(checkpoint.model) as prefill:
        output = checkpoint.model.generate(
            **inputs, **knobs, vision_token_budget=budget, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
        )
    return _texts(checkpoint, output[:, inputs["input_ids"].shape[1] :]), _vision_tokens(checkpoint, inputs, prefill)


@torch.no_grad()
def answer_by_selector(
    checkpoint: Checkpoint,
    inputs: Mapping[str, torch.Tensor],
    encoded: EncodedBatch,
    selector: Selector,
    budget: int,
    max_new_tokens: int,
) -> tuple[list[str], list[int]]:
    """Stock `generate` on the same prompts with the tokens that a selector keeps.

    Args:
        checkpoint, inputs, max_new_tokens: as in `answer_by_model`.
        encoded: of `inputs`.
        selector: the method.
        budget: tokens per crop.

    Returns:
        As `answer_by_model`.
    """
    pruned = encoded.pruned(checkpoint.model, selector, budget)
    with _prefill(checkpoint.model) as prefill:
        output = checkpoint.model.generate(
            input_ids=pruned.input_ids,
            inputs_embeds=pruned.inputs_embeds,
            attention_mask=pruned.attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
        )
    return _texts(checkpoint, output[:, pruned.length :]), _vision_tokens(checkpoint, inputs, prefill)


def _texts(checkpoint: Checkpoint, tokens: torch.Tensor) -> list[str]:
    return [text.strip() for text in checkpoint.processor.batch_decode(tokens, skip_special_tokens=True)]


@contextmanager
def _prefill(model: Any) -> Iterator[list[torch.Tensor]]:
    """Records how many tokens of each prompt the language model reads, so that no setting can silently do nothing."""
    read: list[torch.Tensor] = []

    def record(_module: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if not read:
            embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
            full = torch.full((len(embeds),), embeds.shape[1])
            read.append(mask.sum(1).cpu() if mask is not None and mask.dim() == 2 else full)

    handle = model.model.language_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


def _vision_tokens(
    checkpoint: Checkpoint, inputs: Mapping[str, torch.Tensor], prefill: Sequence[torch.Tensor]
) -> list[int]:
    """What was read but is no text."""
    image = inputs["input_ids"] == checkpoint.model.config.image_token_id
    text = (inputs["attention_mask"].bool() & ~image).sum(1).cpu()
    return (prefill[0] - text).tolist()
