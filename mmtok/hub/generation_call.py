"""The arguments of one `generate`: read once, handed to stock for the pruned prompt, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, StoppingCriteriaList

from .cached_prompt import CachedPrompt
from .generation import (
    FullPromptStreamer,
    GenerationStep,
    corrected_lengths,
    full_prompt_prefix,
    full_prompt_views,
    inferred_attention_mask,
    refuse_assistant,
    refuse_filled_cache,
)
from .host import ROWS_ARE_PROMPTS, given_cache
from .pruned_prompt import PrunedPrompt, with_full_prompt


@dataclass(frozen=True)
class GenerationCall:
    """The arguments of one `generate`.

    Attributes:
        arguments: keyword arguments, options of pruning left out.
        configs: generation configurations, the one with the last word first.
        input_ids: (B, L) the prompt that the caller wrote, or None where only embeddings were given.
        length: L, 0 for a call without a prompt.
    """

    arguments: dict[str, Any]
    configs: tuple[GenerationConfig | None, ...]
    input_ids: torch.Tensor | None
    length: int

    @classmethod
    def read(cls, arguments: dict[str, Any], model_config: GenerationConfig) -> GenerationCall:
        """Reads the arguments of stock `generate`, given by name; `inputs` becomes `input_ids`.

        Args:
            arguments: of the call, which are changed.
            model_config: the model's generation configuration.
        """
        if arguments.get("inputs") is not None and arguments.get("input_ids") is None:
            arguments["input_ids"] = arguments.pop("inputs")
        prompt = arguments.get("input_ids")
        given = arguments.get("inputs_embeds") if prompt is None else prompt
        length = given.shape[1] if given is not None and given.ndim > 1 else 0
        return cls(arguments, (arguments.get("generation_config"), model_config), prompt, length)

    def require_prunable(self, model: Any) -> None:
        """Raises a ValueError for a filled cache, or an assistant that cannot read the pruned prompt of `model`."""
        refuse_filled_cache(given_cache(self.arguments))
        if self.arguments.get("assistant_model") is not None:
            refuse_assistant(self.arguments["assistant_model"], model)

    def prompt(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Ids, embeddings and mask of the prompt; the mask is stock's where the caller gave none."""
        mask = self.arguments.get("attention_mask")
        if mask is None and self.input_ids is not None:
            config = next(config for config in self.configs if config is not None)
            mask = inferred_attention_mask(self.input_ids, config, self.arguments)
        return self.input_ids, self.arguments.get("inputs_embeds"), mask

    def repeats_prompt(self) -> bool:
        """Whether the ids begin with those that the cache stands for, rather than follow them.

        Ids that follow a cache come with a mask that is longer than they are.
        """
        mask = self.arguments.get("attention_mask")
        return self.length > 0 and (mask is None or mask.dim() != 2 or mask.shape[1] <= self.length)

    def run_pruned(self, stock_generate: Callable, pruned: PrunedPrompt) -> Any:
        """Runs stock `generate` on the pruned prompt, and returns what it would return for the full one."""
        changed = {
            "attention_mask": pruned.attention_mask,
            "inputs_embeds": None,
            **pruned.per_token_inputs(self.arguments),
        }
        if pruned.positions is not None:
            changed["position_ids"] = None  # each step gives its own
        if self.input_ids is None:
            changed["inputs_embeds"] = pruned.inputs_embeds
            if pruned.positions is not None:
                changed["generation_step"] = GenerationStep(None, None, pruned.positions, pruned.deepstack)
        else:
            only_vision = self.arguments.get("inputs_embeds") is None
            changed |= {
                "input_ids": pruned.input_ids,
                "generation_step": GenerationStep.of(pruned, only_vision=only_vision),
            }
        output = self._run(stock_generate, changed, pruned.length)
        if not isinstance(output, torch.Tensor):
            for name in ("hidden_states", "attentions"):
                if getattr(output, name, None) is not None:
                    setattr(output, name, pruned.steps_aligned(getattr(output, name)))
            CachedPrompt.attach(given_cache(output), pruned)
        return output

    def run_continued(self, stock_generate: Callable, cached: CachedPrompt) -> Any:
        """Runs stock `generate` on a prompt whose beginning lies pruned in the cache."""
        changed = cached.shortened(self.arguments)
        if cached.positions is not None:
            changed["generation_step"] = GenerationStep(None, None, cached.positions)
        with cached.detached(given_cache(self.arguments)):
            return self._run(stock_generate, changed, self.length - cached.dropped)

    def _run(self, stock_generate: Callable, changed: dict[str, Any], length: int) -> Any:
        """Runs stock `generate` with changed arguments, for a prompt of `length` tokens."""
        given = {**self.arguments, **changed}
        given |= corrected_lengths(self.configs, given, self.length - length)
        arguments = {name: value for name, value in given.items() if value is not None}
        if self.input_ids is None:
            return stock_generate(**arguments)
        output = stock_generate(**{**arguments, **self._views(length)})
        if isinstance(output, torch.Tensor):
            return with_full_prompt(output, self.input_ids, length)
        output.sequences = with_full_prompt(output.sequences, self.input_ids, length)
        return output

    def _views(self, length: int) -> dict[str, Any]:
        """The caller's functions, which see the full prompt in place of the one of `length` tokens."""
        given, ids = self.arguments, self.input_ids
        assert ids is not None, "a prompt of embeddings alone has no ids to show"
        views: dict[str, Any] = {
            name: kind(full_prompt_views(given[name], ids, length))
            for name, kind in (("logits_processor", LogitsProcessorList), ("stopping_criteria", StoppingCriteriaList))
            if given.get(name) is not None
        }
        if given.get("streamer") is not None:
            views["streamer"] = FullPromptStreamer(given["streamer"], ids)
        if given.get("prefix_allowed_tokens_fn") is not None:
            returned = self._setting("num_return_sequences") or 1
            own_rows = returned if (self._setting("num_beams") or 1) == 1 and not ROWS_ARE_PROMPTS else 1
            views["prefix_allowed_tokens_fn"] = full_prompt_prefix(
                given["prefix_allowed_tokens_fn"], ids, length, own_rows
            )
        return views

    def _setting(self, name: str) -> Any:
        """A setting of the generation: the argument, or what the configurations say."""
        given = (self.arguments.get(name), *(getattr(config, name, None) for config in self.configs))
        return next((value for value in given if value is not None), None)
