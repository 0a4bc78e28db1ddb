"""What `generate` translates between the caller's full prompt and the shorter one that stock code sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from .deepstack import DEEPSTACK, DeepStack
from .grid_positions import GridPositions
from .host import cache_columns, cached_length, given_cache, text_places
from .pruned_prompt import PrunedPrompt, with_full_prompt


class GenerationStep:
    """Marks a forward pass as a step of a `generate` that has dealt with the images already.

    `generate` hands stock generation the token ids of the pruned prompt and this object, which stock passes on to our
    `forward` as it passes every argument that it does not know. So stock counts, pads, chunks, repeats and drafts as it
    does for text; given `inputs_embeds` instead, it cannot prefill in chunks, run without a cache or draft with an
    assistant. This is no tensor, because stock would repeat one for beams.
    """

    def __init__(
        self,
        embeds: torch.Tensor | None,
        given: torch.Tensor | None,
        positions: GridPositions | None = None,
        deepstack: DeepStack | None = None,
    ) -> None:
        """
        Args:
            embeds: (B, L', hidden), embeddings of the pruned prompt; None where a cache or stock has them.
            given: (B, L') bool, slots that are taken from `embeds`; the others have the embeddings of their ids.
            positions: of the pruned prompt's slots, where they are positions in a grid.
            deepstack: of the pruned prompt's slots, where the family has such features.
        """
        self._embeds = embeds
        self._given = given
        self._positions = positions
        self._deepstack = deepstack
        self._reads_prompt = True

    @classmethod
    def of(cls, pruned: PrunedPrompt, *, only_vision: bool) -> GenerationStep:
        """For a pruned prompt.

        Args:
            pruned: the pruned prompt.
            only_vision: False where the caller gave embeddings for the text too.
        """
        given = pruned.vision_slots if only_vision else torch.ones_like(pruned.vision_slots)
        return cls(pruned.inputs_embeds, given.to(pruned.inputs_embeds.device), pruned.positions, pruned.deepstack)

    @property
    def has_embeddings(self) -> bool:
        """Whether a step may still need them: no cache holds the prompt yet."""
        return self._embeds is not None

    def arguments(self, given: dict[str, Any], embed: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """The arguments of a stock forward: those of the step, with the kept vision tokens in their places.

        `DEEPSTACK` among them is what the language model adds to these tokens.
        """
        ids = given.get("input_ids")
        new = given.get("inputs_embeds") if ids is None else ids
        if new is None or (self._embeds is None and self._positions is None):
            return given
        places = text_places(given)
        places = None if places is None else places.expand(len(new), -1)
        columns = cache_columns(given)
        # The length of a cache may have to be read back from the device: it is asked for while it says something.
        counted = places is not None or columns is not None
        start = None if counted and not self._reads_prompt else cached_length(given_cache(given))
        changed: dict[str, Any] = {}
        if self._positions is not None:
            changed["position_ids"] = _numbered(self._positions, places, columns, start, new)
        if self._embeds is not None and ids is not None and start is not None:
            embeds = self._embeddings(ids, start, embed)
            changed |= {} if embeds is None else {"input_ids": None, "inputs_embeds": embeds}
        if self._deepstack is not None and start is not None:
            deepstack = self._deepstack.columns(start, *new.shape[:2])
            changed |= {} if deepstack is None else {DEEPSTACK: deepstack.arguments()}
        if start is not None and given_cache(given) is not None and start + new.shape[1] >= self._length:
            # The cache holds the prompt now.
            self._embeds = self._given = self._deepstack = None
            self._reads_prompt = False
        return {**given, **changed}

    @property
    def _length(self) -> int:
        """L'"""
        known = self._embeds if self._positions is None else self._positions.places[0]
        return 0 if known is None else known.shape[1]

    def _embeddings(
        self, input_ids: torch.Tensor, start: int, embed: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor | None:
        """(R, n, hidden) for (R, n) ids that stand at `start` of the prompt, R a multiple of the batch.

        None behind the prompt, where ids say everything.
        """
        if self._embeds is None or self._given is None:
            return None
        columns = slice(start, min(start + input_ids.shape[1], self._given.shape[1]))
        width = columns.stop - columns.start
        if width <= 0:
            return None
        repeats = len(input_ids) // len(self._given)
        embeds = embed(input_ids)
        given = self._given[:, columns].repeat_interleave(repeats, dim=0).to(embeds.device)[..., None]
        own = self._embeds[:, columns].repeat_interleave(repeats, dim=0).to(embeds.device, embeds.dtype)
        return torch.cat((torch.where(given, own, embeds[:, :width]), embeds[:, width:]), dim=1)


def _numbered(
    positions: GridPositions,
    places: torch.Tensor | None,
    columns: torch.Tensor | None,
    start: int | None,
    new: torch.Tensor,
) -> torch.Tensor:
    """(3, R, n) positions of a step's tokens, or (4, R, n) with their places in the text in front.

    Args:
        positions: of the pruned prompt.
        places: (R, n) places in the text, where stock counts them.
        columns: (n,) columns of the tokens, where stock counts them.
        start: the column of the first token; None for tokens behind the prompt whose `places` or `columns` are known.
        new: (R, n, ...), the tokens.
    """
    if start is None and places is not None:
        numbers = positions.behind(places)
    elif start is None and columns is not None:
        numbers = positions.behind_columns(columns, len(new))
    else:
        numbers = positions.columns(start or 0, *new.shape[:2])
    return numbers if places is None else torch.cat((places[None].to(numbers.device), numbers))


class FullPromptStreamer(BaseStreamer):
    """Shows a streamer the prompt of the caller instead of the pruned one."""

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


class FullPromptView:
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


def full_prompt_views(
    functions: Sequence[Callable] | None, input_ids: torch.Tensor, pruned_length: int
) -> list[FullPromptView]:
    """Each of a caller's logits processors or stopping criteria, wrapped."""
    return [FullPromptView(function, input_ids, pruned_length) for function in functions or ()]


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


def full_prompt_prefix(
    function: Callable, input_ids: torch.Tensor, pruned_length: int, repeats: int
) -> Callable[[int, torch.Tensor], Any]:
    """Shows a caller's `prefix_allowed_tokens_fn` the sequence that the caller will get.

    Args:
        function: takes the number of a row and its ids so far.
        input_ids: (B, L) the full prompts.
        pruned_length: L'.
        repeats: sequences a prompt that stock numbers as rows of their own.
    """

    def allowed(row: int, sequence: torch.Tensor) -> Any:
        prompt = input_ids[row // repeats].to(sequence.device)
        return function(row, torch.cat((prompt, sequence[pruned_length:])))

    return allowed


def refuse_assistant(assistant_model: Any, model: Any) -> None:
    """Raises a ValueError for an assistant model that cannot read the pruned prompt of `model`.

    Args:
        assistant_model: drafts tokens from the same pruned prompt.
        model: checks them.
    """
    if not hasattr(assistant_model, "select_vision_tokens"):
        raise ValueError(
            f"The assistant model is a {type(assistant_model).__name__}, which cannot read a pruned prompt: give an "
            "MMTok model of the same width, use prompt_lookup_num_tokens, or turn pruning off with "
            "vision_token_budget=None in the configuration."
        )
    own, other = (int(each.get_input_embeddings().weight.shape[-1]) for each in (model, assistant_model))
    if own != other:
        raise ValueError(
            f"The assistant model has embeddings of width {other} and the model of width {own}: they share the "
            "vision tokens, so give an assistant of the same width, or turn pruning off with vision_token_budget=None."
        )


def refuse_filled_cache(cache: Any) -> None:
    """Raises a ValueError for a cache that already holds tokens.

    Args:
        cache: what the caller gave together with an image.
    """
    length = cached_length(cache)
    if length > 0:
        raise ValueError(
            f"The cache already holds {length} tokens, and an image cannot be added behind a pruned prompt: give the "
            "whole conversation with all its images, and no cache."
        )
