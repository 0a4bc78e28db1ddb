"""What `generate` has to translate between the caller, who counts the full prompt, and stock code, which sees less."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from .pruned_prompt import PrunedPrompt, with_full_prompt


@dataclass(frozen=True)
class PrunedPrefill:
    """The vision tokens of a pruned prompt, which stock generation reads in place of the image tokens' embeddings.

    Stock generation sees token ids only, and so counts, pads, chunks, repeats and drafts as it does for text. This is
    no tensor, because it would repeat one for beams.

    Attributes:
        embeds: (B, L', hidden).
        given: (B, L') bool, slots that are taken from `embeds`; the others have the embeddings of their ids.
    """

    embeds: torch.Tensor
    given: torch.Tensor

    @classmethod
    def of(cls, pruned: PrunedPrompt, *, only_vision: bool) -> PrunedPrefill:
        """What stock generation has to read of a pruned prompt: its vision tokens, or all where they are not alone.

        Args:
            pruned: the pruned prompt.
            only_vision: False where the caller gave embeddings for the text too.
        """
        given = pruned.vision_slots if only_vision else torch.ones_like(pruned.vision_slots)
        return cls(pruned.inputs_embeds, given.to(pruned.inputs_embeds.device))

    def embeddings(
        self, input_ids: torch.Tensor, start: int, embed: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor | None:
        """(R, n, hidden) for (R, n) ids that stand at `start` of the prompt, R a multiple of the batch.

        None behind the prompt, where ids say everything.
        """
        columns = slice(start, min(start + input_ids.shape[1], self.given.shape[1]))
        width = columns.stop - columns.start
        if width <= 0:
            return None
        repeats = len(input_ids) // len(self.given)
        embeds = embed(input_ids)
        given = self.given[:, columns].repeat_interleave(repeats, dim=0).to(embeds.device)[..., None]
        own = self.embeds[:, columns].repeat_interleave(repeats, dim=0).to(embeds.device, embeds.dtype)
        return torch.cat((torch.where(given, own, embeds[:, :width]), embeds[:, width:]), dim=1)


class FullPromptStreamer(BaseStreamer):
    """Shows a streamer the prompt that the caller wrote instead of the pruned one."""

    def __init__(self, streamer: BaseStreamer, input_ids: torch.Tensor) -> None:
        self._streamer = streamer
        self._prompt: torch.Tensor | None = input_ids

    def put(self, value: torch.Tensor) -> None:
        """Stock generation puts the prompt first and then the new tokens."""
        if self._prompt is not None:
            value, self._prompt = self._prompt.cpu(), None
        self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()


class SeesFullPrompt:
    """Shows a caller's logits processor or stopping criterion the sequences that the caller will get.

    Stock generation asks such objects for attributes (`eos_token_id`, say); they are the wrapped object's.
    """

    def __init__(self, function: Callable, input_ids: torch.Tensor, pruned_length: int) -> None:
        self._function, self._prompt, self._pruned_length = function, input_ids, pruned_length

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> Any:
        return self._function(with_full_prompt(input_ids, self._prompt, self._pruned_length), scores)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._function, name)


def seeing_full_prompt(
    functions: Sequence[Callable] | None, input_ids: torch.Tensor, pruned_length: int
) -> list[SeesFullPrompt]:
    """Each of a caller's logits processors or stopping criteria, wrapped."""
    return [SeesFullPrompt(function, input_ids, pruned_length) for function in functions or ()]


def corrected_lengths(
    configs: Sequence[GenerationConfig | None], kwargs: Mapping[str, Any], dropped: int
) -> dict[str, int]:
    """max_length and min_length for the pruned prompt: they count the full prompt for the caller.

    Args:
        configs: generation configurations, the one with the last word first.
        kwargs: arguments of `generate`, which override them.
        dropped: tokens by which the prompt is shorter.

    Returns:
        The arguments of `generate` that have to change.
    """
    given = [config for config in configs if config is not None]
    defaults = GenerationConfig()
    corrected = {}
    for name, new_tokens in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if kwargs.get(new_tokens) is not None or any(getattr(config, new_tokens) is not None for config in given):
            continue
        # A value that equals the default was set by nobody: stock then counts from the end of the prompt.
        set_by_config = [getattr(config, name) for config in given if getattr(config, name) != getattr(defaults, name)]
        chosen = next((value for value in (kwargs.get(name), *set_by_config) if value is not None), None)
        if chosen is not None:
            corrected[name] = max(chosen - dropped, 0)
    return corrected


def inferred_attention_mask(
    input_ids: torch.Tensor, config: GenerationConfig, kwargs: Mapping[str, Any]
) -> torch.Tensor | None:
    """The (B, L) mask that stock generation reads off the padding ids, None where there is no padding."""
    pad = kwargs.get("pad_token_id", config.pad_token_id)
    eos = kwargs.get("eos_token_id", config.eos_token_id)
    ends = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    if pad is None or pad in ends or not bool((input_ids == pad).any()):
        return None
    return (input_ids != pad).long()


def refuse_assistant(assistant_model: Any, model: Any) -> None:
    """Raises a ValueError for an assistant model that cannot read the pruned prompt of `model`.

    Args:
        assistant_model: drafts tokens from the same pruned prompt.
        model: checks them.
    """
    if "pruned_prefill" not in inspect.signature(assistant_model.prepare_inputs_for_generation).parameters:
        raise ValueError(
            f"The assistant model is a {type(assistant_model).__name__}, which cannot read a pruned prompt: give an "
            "MMTok model of the same width, use prompt_lookup_num_tokens, or turn pruning off with "
            "vision_token_budget=None."
        )
    own, other = (int(each.get_input_embeddings().weight.shape[-1]) for each in (model, assistant_model))
    if own != other:
        raise ValueError(
            f"The assistant model has embeddings of width {other} and the model of width {own}: they share the "
            "vision tokens, so give an assistant of the same width, or turn pruning off with vision_token_budget=None."
        )


def refuse_filled_cache(past_key_values: Any) -> None:
    """Raises a ValueError for a cache that already holds tokens."""
    length = int(past_key_values.get_seq_length()) if hasattr(past_key_values, "get_seq_length") else 0
    if length > 0:
        raise ValueError(
            f"past_key_values already holds {length} tokens: pruning reads the whole prompt, so give a picture with an "
            "empty cache, or turn pruning off with vision_token_budget=None."
        )
