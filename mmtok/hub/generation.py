"""One `generate`: what it translates between the caller's full prompt and the shorter one that stock code sees.

The record of what was dropped travels on the cache, because a model keeps nothing between calls.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from .prompt import DEEPSTACK, PrunedPrompt, columns_of, deepstack_arguments, with_full_prompt
from .releases import ROWS_ARE_PROMPTS, cache_columns, cached_keys, cached_length, given_cache, text_places

# Attribute of a cache that holds the record.
CACHED_PROMPT = "mmtok_prompt"


@dataclass(frozen=True)
class CachedPrompt:
    """A pruned prompt whose keys and values lie in a cache; B rows, L tokens of which L' slots were read.

    Attributes:
        pruned: the prompt, without its embeddings and images.
        fingerprint: of the layer that shows most of the prompt its number, the column of its first key, and (B, n) one
            component of the keys from there to the end of the prompt; None for a cache that shows no key of it.
    """

    pruned: PrunedPrompt
    fingerprint: tuple[int, int, torch.Tensor] | None

    @staticmethod
    def attach(cache: Any, pruned: PrunedPrompt) -> None:
        """Leaves on a cache the record of the prompt that fills it."""
        if not hasattr(cache, "get_seq_length"):
            return
        shown = {layer: start for layer, (start, _) in cached_keys(cache).items() if start < pruned.length}
        fingerprint = None
        if shown:
            layer = min(shown, key=lambda number: shown[number])
            fingerprint = (layer, shown[layer], _components(cache, layer, shown[layer], pruned.length))
        setattr(cache, CACHED_PROMPT, CachedPrompt(pruned.light(), fingerprint))

    @contextmanager
    def detached(self, cache: Any) -> Iterator[None]:
        """Takes the record off a cache while stock generation runs with arguments that are shortened already."""
        delattr(cache, CACHED_PROMPT)
        try:
            yield
        finally:
            setattr(cache, CACHED_PROMPT, self)

    @staticmethod
    def of(cache: Any) -> CachedPrompt | None:
        """The record on a cache, None where there is none or the cache was emptied since."""
        found = getattr(cache, CACHED_PROMPT, None)
        return found if found is not None and cached_length(cache) > 0 else None

    @property
    def length(self) -> int:
        """L"""
        return self.pruned.kept.shape[1]

    def require_intact(self, cache: Any) -> None:
        """Raises a ValueError unless the cache still begins with the pruned prompt, row by row.

        Cropping a cache into the prompt and reordering or repeating its rows leave a record that does not fit any more.
        Where no layer shows a key of the prompt any more, which is so behind the window of a model all of whose layers
        have one, that cannot be seen, and a warning says so.
        """
        slots, length = self.pruned.length, cached_length(cache)
        intact, compared = length >= slots, False
        if intact and self.fingerprint is not None:
            layer, first, before = self.fingerprint
            start = max(first, cached_keys(cache).get(layer, (slots, None))[0])
            if start < slots:
                now = _components(cache, layer, start, slots)
                intact, compared = torch.equal(now, before[:, start - first :].to(now.device)), True
        if not intact:
            raise ValueError(
                f"The cache held a pruned prompt of {self.length} tokens in {slots} slots and was cropped or reordered "
                f"since, it now holds {length}: give the whole prompt with its images, and no cache."
            )
        if not compared:
            warnings.warn(
                f"No layer of the {type(cache).__name__} shows a key of the pruned prompt: whether its rows were "
                "reordered since cannot be seen.",
                stacklevel=2,
            )

    def shortened(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The token arguments of a call that repeats the prompt and continues it, without the dropped tokens.

        Args:
            inputs: `input_ids` (B, more than L), `inputs_embeds` (B, more than L, hidden) or both, and, where they are
                given, `attention_mask` and `position_ids`.

        Raises:
            ValueError: the cache holds another prompt.
        """
        self.require_intact(given_cache(inputs))
        given = {name: inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None}
        for name, values in given.items():
            if not self._begins(values):
                raise ValueError(
                    f"The cache holds a pruned prompt of {self.length} tokens, and {name} of shape "
                    f"{tuple(values.shape)} do not begin with it: continue from the returned sequences, or start with "
                    "an empty cache."
                )
        shorter = {name: self.pruned.without_dropped(values) for name, values in given.items()}
        if self.pruned.input_ids is not None and "input_ids" in shorter:
            shorter["input_ids"][:, : self.pruned.input_ids.shape[1]] = self.pruned.input_ids
        like = next(iter(shorter.values()))
        mask = self.mask(inputs.get("attention_mask"), like)
        if mask is not None:
            shorter["attention_mask"] = mask
        positions = inputs.get("position_ids")
        if positions is not None and self.pruned.positions is not None:
            raise ValueError(
                "position_ids were given with a cache that holds a pruned prompt, which knows its positions in the "
                "grids of the images: leave them out."
            )
        if positions is not None:
            shorter["position_ids"] = self.pruned.renumbered(positions)
        return shorter

    def mask(self, attention_mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
        """(B, L + n) mask of the caller, or None -> (B, L' + n) for cached slots and what follows, long as `like`."""
        slots = self.pruned.order.valid.to(like.device)
        if attention_mask is not None:
            shorter = self.pruned.without_dropped(attention_mask)
            return torch.cat((shorter[:, : slots.shape[1]] * slots, shorter[:, slots.shape[1] :]), dim=1)
        if self.pruned.attention_mask is None:
            return None
        own = self.pruned.attention_mask.to(like.device)
        return torch.cat((own, own.new_ones(like.shape[0], like.shape[1] - own.shape[1])), dim=1)

    def step(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `forward` for new tokens alone, whose mask and positions count the full prompt."""
        self.require_intact(given_cache(inputs))
        new = inputs.get("input_ids", inputs.get("inputs_embeds"))
        cached = cached_length(given_cache(inputs))
        if self.pruned.positions is not None and new is not None and inputs.get("position_ids") is None:
            inputs = {**inputs, "position_ids": self.pruned.positions.columns(cached, *new.shape[:2])}
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if new is None or len(new) != len(self.pruned.dropped_vision) or (mask is not None and mask.dim() != 2):
            return inputs
        if mask is not None and mask.shape[1] == cached + new.shape[1]:
            return inputs
        stands_for = cached + self.pruned.dropped
        if mask is not None and mask.shape[1] != stands_for + new.shape[1]:
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}, but the cache stands for {stands_for} "
                f"tokens of the prompt and {new.shape[1]} are new: give one value for each of them."
            )
        like = self.pruned.dropped_vision.new_zeros(len(new), cached + new.shape[1]).to(new.device)
        changed = {**inputs, "attention_mask": self.mask(mask, like)}
        if positions is not None and self.pruned.positions is None:
            dropped = self.pruned.dropped_vision.sum(1, keepdim=True)
            changed["position_ids"] = positions - dropped.to(positions.device)
        return {name: value for name, value in changed.items() if value is not None}

    def _begins(self, prompt: torch.Tensor) -> bool:
        """Whether the ids begin with the cached prompt; of embeddings, or without its ids, only whether they can."""
        if prompt.shape[0] != self.pruned.dropped_vision.shape[0] or prompt.shape[1] <= self.length:
            return False
        if self.pruned.input_ids is None or prompt.dim() != 2:
            return True
        slots = self.pruned.order.gather(prompt[:, : self.length])
        same = (slots == self.pruned.input_ids.to(slots.device)) | ~self.pruned.order.valid.to(slots.device)
        return bool(same.all())


def _components(cache: Any, layer: int, start: int, slots: int) -> torch.Tensor:
    """(B, slots - start) one component of each key of the prompt from column `start` on, in the first head."""
    first, keys = cached_keys(cache)[layer]
    return keys[:, 0, start - first : slots - first, 0].detach().clone()


class GenerationStep:
    """Marks a forward pass as a step of a `generate` that has dealt with the images already.

    `generate` hands stock generation the token ids of the pruned prompt and this object, which stock passes on to our
    `forward` as it passes every argument that it does not know. So stock counts, pads, chunks, repeats and drafts as it
    does for text; given `inputs_embeds` instead, it cannot prefill in chunks, run without a cache or draft with an
    assistant. This is not a tensor, because stock would repeat one for beams.
    """

    def __init__(self, pruned: PrunedPrompt, *, only_vision: bool = True) -> None:
        """
        Args:
            pruned: the prompt whose ids or embeddings stock reads; everything else that its slots need comes from here.
            only_vision: False where the caller gave embeddings for the text too.
        """
        self._prompt = pruned
        self._given = pruned.vision_slots if only_vision else torch.ones_like(pruned.vision_slots)
        # Whether a step may still need the embeddings: no cache holds the prompt yet.
        self.reads_prompt = True

    def arguments(self, given: dict[str, Any], embed: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """The arguments of a stock forward: those of the step, with the kept vision tokens in their places.

        `DEEPSTACK` among them is what the language model adds to these tokens.
        """
        prompt, ids = self._prompt, given.get("input_ids")
        new = given.get("inputs_embeds") if ids is None else ids
        if new is None or not (self.reads_prompt or prompt.positions is not None):
            return given
        places = text_places(given)
        places = None if places is None else places.expand(len(new), -1)
        columns = cache_columns(given)
        # The length of a cache may have to be read back from the device: it is asked for while it says something.
        counted = places is not None or columns is not None
        start = None if counted and not self.reads_prompt else cached_length(given_cache(given))
        changed: dict[str, Any] = {}
        if prompt.positions is not None:
            if start is None and places is not None:
                numbers = prompt.positions.behind(places)
            elif start is None and columns is not None:
                numbers = prompt.positions.behind_columns(columns, len(new))
            else:
                numbers = prompt.positions.columns(start or 0, *new.shape[:2])
            if places is not None:
                numbers = torch.cat((places[None].to(numbers.device), numbers))
            changed["position_ids"] = numbers
        if self.reads_prompt and start is not None and start < prompt.length:
            # A prompt of embeddings alone stands in the arguments as it is.
            if ids is not None and prompt.input_ids is not None:
                embeds = embed(ids)
                vision, own = (columns_of(each, start, *ids.shape) for each in (self._given, prompt.inputs_embeds))
                own = own.to(embeds.device, embeds.dtype)
                embeds = torch.where(vision.to(embeds.device)[..., None], own, embeds)
                changed |= {"input_ids": None, "inputs_embeds": embeds}
            if prompt.deepstack is not None:
                slots, *layers = (
                    columns_of(each, start, *new.shape[:2]) for each in (prompt.vision_slots, *prompt.deepstack)
                )
                changed[DEEPSTACK] = deepstack_arguments(slots, layers)
        if start is not None and given_cache(given) is not None and start + new.shape[1] >= prompt.length:
            self.reads_prompt = False  # the cache holds the prompt now
        return {**given, **changed}


@contextmanager
def adds_deepstack(model: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Lets the language model of `model` read `DEEPSTACK` among the arguments of a forward pass, inside the context.

    Stock passes an argument that it does not know on to its language model. What other threads ask of the model
    meanwhile has no such argument.
    """
    if arguments.get(DEEPSTACK) is None:
        yield
        return
    handle = model.model.language_model.register_forward_pre_hook(_read_deepstack, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _read_deepstack(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Puts the features where the stock language model expects them."""
    # torch leaves the keyword arguments out where another thread removes its hook meanwhile.
    if kwargs is None or kwargs.get(DEEPSTACK) is None:
        return None
    return args, {**{name: value for name, value in kwargs.items() if name != DEEPSTACK}, **kwargs[DEEPSTACK]}


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


def refuse_filled_cache(cache: Any) -> None:
    """Raises a ValueError for a cache that already holds tokens, given together with an image."""
    length = cached_length(cache)
    if length > 0:
        raise ValueError(
            f"The cache already holds {length} tokens, and an image cannot be added behind a pruned prompt: give the "
            "whole conversation with all its images, and no cache."
        )


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
        """Reads the arguments of stock `generate`, given by name, and changes them: `inputs` becomes `input_ids`."""
        if arguments.get("inputs") is not None and arguments.get("input_ids") is None:
            arguments["input_ids"] = arguments.pop("inputs")
        prompt = arguments.get("input_ids")
        given = arguments.get("inputs_embeds") if prompt is None else prompt
        length = given.shape[1] if isinstance(given, torch.Tensor) and given.ndim > 1 else 0
        return cls(arguments, (arguments.get("generation_config"), model_config), prompt, length)

    def require_prunable(self, model: Any) -> None:
        """Raises a ValueError for a filled cache, or an assistant that cannot read the pruned prompt of `model`.

        Where the tokens of an image see each other in both directions, a chunk would hide the rest of its image: then a
        prefill in chunks is refused too.
        """
        refuse_filled_cache(given_cache(self.arguments))
        chunk = self._setting("prefill_chunk_size")
        if model.sees_both_ways and chunk is not None:
            raise ValueError(
                f"prefill_chunk_size is {chunk}, and the tokens of an image of a {type(model).__name__} see each other "
                "in both directions, so that an image cannot be split: leave it out."
            )
        assistant = self.arguments.get("assistant_model")
        if assistant is None:
            return
        if not hasattr(assistant, "select_vision_tokens"):
            raise ValueError(
                f"The assistant model is a {type(assistant).__name__}, which cannot read a pruned prompt: give an "
                "MMTok model of the same width, use prompt_lookup_num_tokens, or turn pruning off with "
                "vision_token_budget=None in the configuration."
            )
        own, other = (int(each.get_input_embeddings().weight.shape[-1]) for each in (model, assistant))
        if own != other:
            raise ValueError(
                f"The assistant model has embeddings of width {other} and the model of width {own}: they share the "
                "vision tokens, so give an assistant of the same width, or turn pruning off with "
                "vision_token_budget=None."
            )

    def prompt(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Ids, embeddings and mask of the prompt.

        Where the caller gave no mask it is the one that stock generation reads off the padding ids, if there are any.
        """
        mask = self.arguments.get("attention_mask")
        if mask is None and isinstance(self.input_ids, torch.Tensor):
            config = next(config for config in self.configs if config is not None)
            pad, eos = (self.arguments.get(name, getattr(config, name)) for name in ("pad_token_id", "eos_token_id"))
            ends = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
            if pad is not None and pad not in ends and bool((self.input_ids == pad).any()):
                mask = (self.input_ids != pad).long()
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
        else:
            changed["input_ids"] = pruned.input_ids
        only_vision = self.arguments.get("inputs_embeds") is None
        changed["generation_step"] = GenerationStep(pruned, only_vision=only_vision)
        output = self._run(stock_generate, changed, pruned.length)
        if not isinstance(output, torch.Tensor):
            for name in ("hidden_states", "attentions"):
                if getattr(output, name, None) is not None:
                    setattr(output, name, pruned.steps_aligned(getattr(output, name)))
            CachedPrompt.attach(given_cache(output), pruned)
        return output

    def run_continued(self, stock_generate: Callable, cached: CachedPrompt) -> Any:
        """Runs stock `generate` on a prompt whose beginning lies pruned in the cache."""
        changed = {**cached.shortened(self.arguments), "generation_step": GenerationStep(cached.pruned)}
        with cached.detached(given_cache(self.arguments)):
            return self._run(stock_generate, changed, self.length - cached.pruned.dropped)

    def _run(self, stock_generate: Callable, changed: dict[str, Any], length: int) -> Any:
        """Runs stock `generate` with changed arguments, for a prompt of `length` tokens."""
        given = {**self.arguments, **changed}
        # max_length and min_length count the full prompt for the caller.
        configs, defaults = [each for each in self.configs if each is not None], GenerationConfig()
        for name, new_tokens in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if self._setting(new_tokens) is not None:
                continue
            # A value that equals the default was set by nobody: stock then counts from the end of the prompt.
            values = [value for each in configs if (value := getattr(each, name)) != getattr(defaults, name)]
            chosen = next((value for value in (given.get(name), *values) if value is not None), None)
            if chosen is not None:
                given[name] = max(chosen - (self.length - length), 0)
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
            name: kind([FullPromptView(function, ids, length) for function in given[name]])
            for name, kind in (("logits_processor", LogitsProcessorList), ("stopping_criteria", StoppingCriteriaList))
            if given.get(name) is not None
        }
        if given.get("streamer") is not None:
            views["streamer"] = FullPromptStreamer(given["streamer"], ids)
        if given.get("prefix_allowed_tokens_fn") is not None:
            returned = self._setting("num_return_sequences") or 1
            own_rows = returned if (self._setting("num_beams") or 1) == 1 and not ROWS_ARE_PROMPTS else 1

            def allowed(row: int, sequence: torch.Tensor) -> Any:
                prompt = ids[row // own_rows].to(sequence.device)
                return given["prefix_allowed_tokens_fn"](row, torch.cat((prompt, sequence[length:])))

            views["prefix_allowed_tokens_fn"] = allowed
        return views

    def _setting(self, name: str) -> Any:
        """A setting of the generation: the argument, or what the configurations say."""
        given = (self.arguments.get(name), *(getattr(config, name, None) for config in self.configs))
        return next((value for value in given if value is not None), None)
