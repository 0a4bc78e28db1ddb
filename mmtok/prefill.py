"""How much the language model of a LLaVA model reads: the one place where prompts are counted as they reach it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def prompt_lengths(model: Any) -> Iterator[list[int]]:
    """Records the length of every prompt that this thread hands to the language model.

    Padding and decoding steps are left out. Counting here, and not where tokens are selected, means that no option can
    silently do nothing.

    Args:
        model: a LLaVA model, pruned or stock.

    Yields:
        A list that grows by one number for each row of each batch, in their order.
    """
    lengths: list[int] = []
    caller = threading.get_ident()

    def record(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embeds = kwargs.get("inputs_embeds", args[0] if args else None)
        if threading.get_ident() != caller or embeds is None or embeds.shape[1] == 1:
            return
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):  # one for each type of layer
            mask = mask.get("full_attention")
        if mask is not None and mask.dim() == 2:
            lengths.extend(mask.sum(1).tolist())
        elif mask is not None:  # (B, 1, L, L): what the last token sees
            seen = mask[:, 0, -1]
            lengths.extend((seen if seen.dtype == torch.bool else seen == 0).sum(1).tolist())
        else:
            lengths.extend([embeds.shape[1]] * len(embeds))

    handle = model.model.language_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield lengths
    finally:
        handle.remove()
