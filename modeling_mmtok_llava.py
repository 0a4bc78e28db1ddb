"""LLaVA-1.5 and LLaVA-NeXT that read only the vision tokens which cover the question and the picture.

Modifications of transformers' models: `generate` and `forward` encode the pictures, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Weights, their names and everything behind
the prompt are `LlavaForConditionalGeneration`'s and `LlavaNextForConditionalGeneration`'s own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)
from transformers.generation import LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast
from transformers.models.llava_next.modeling_llava_next import LlavaNextCausalLMOutputWithPast

try:
    # transformers 4.57 copies no module that this file does not name itself, so it names those that only others need.
    from .cached_prompt import CachedPrompt
    from .configuration_mmtok import KNOB_NAMES, MMTokLlavaConfig, MMTokLlavaNextConfig, PruningOptions, knobs_within
    from .coverage import greedy_coverage  # noqa: F401
    from .devices import sent
    from .fused_greedy import fused_greedy  # noqa: F401
    from .generation import (
        FullPromptStreamer,
        PrunedPrefill,
        corrected_lengths,
        inferred_attention_mask,
        refuse_assistant,
        refuse_filled_cache,
        seeing_full_prompt,
    )
    from .greedy import plain_greedy  # noqa: F401
    from .image_tokens import ImageTokens  # noqa: F401
    from .llava_images import LlavaNextVisionMixin, LlavaVisionMixin
    from .objective import coverage_matrix  # noqa: F401
    from .packing import PackedOrder
    from .prompt import Prompt
    from .pruned_prompt import PrunedPrompt, with_full_prompt
    from .question import TextRules, ids_of_embeddings, text_to_cover
    from .selection import BatchSelection, CoverageSettings, select_units
    from .selection_record import VisionTokenSelection, describe
    from .units import Unit  # noqa: F401
except ImportError:
    if __package__:  # a published repository: the import that failed says what is wrong
        raise
    # A checkout or an installed package, where the modules are not flat.
    from configuration_mmtok import KNOB_NAMES, MMTokLlavaConfig, MMTokLlavaNextConfig, PruningOptions, knobs_within
    from mmtok.hub.cached_prompt import CachedPrompt
    from mmtok.hub.devices import sent
    from mmtok.hub.generation import (
        FullPromptStreamer,
        PrunedPrefill,
        corrected_lengths,
        inferred_attention_mask,
        refuse_assistant,
        refuse_filled_cache,
        seeing_full_prompt,
    )
    from mmtok.hub.llava_images import LlavaNextVisionMixin, LlavaVisionMixin
    from mmtok.hub.packing import PackedOrder
    from mmtok.hub.prompt import Prompt
    from mmtok.hub.pruned_prompt import PrunedPrompt, with_full_prompt
    from mmtok.hub.question import TextRules, ids_of_embeddings, text_to_cover
    from mmtok.hub.selection import BatchSelection, CoverageSettings, select_units
    from mmtok.hub.selection_record import VisionTokenSelection, describe


@dataclass
class MMTokLlavaCausalLMOutputWithPast(LlavaCausalLMOutputWithPast):
    """Stock output with `kept_mask`, (B, L) bool: the tokens of `input_ids` that the language model read.

    Logits, hidden states and attentions are aligned with `input_ids`; they are 0 for tokens that were dropped.
    `kept_mask` is no part of the tuple, which is stock's.
    """

    kept_mask: torch.Tensor | None = None

    def to_tuple(self) -> tuple:
        return _stock_tuple(self)


@dataclass
class MMTokLlavaNextCausalLMOutputWithPast(LlavaNextCausalLMOutputWithPast):
    """Stock output with `kept_mask`, (B, L) bool: the tokens of `input_ids` that the language model read.

    Logits, hidden states and attentions are aligned with `input_ids`; they are 0 for tokens that were dropped.
    `kept_mask` is no part of the tuple, which is stock's.
    """

    kept_mask: torch.Tensor | None = None

    def to_tuple(self) -> tuple:
        return _stock_tuple(self)


class MMTokPruningMixin:
    """`generate`, `forward` and `select_vision_tokens` with pruning; the model class behind it is stock transformers.

    Nothing is kept on the model between calls.
    """

    output_class: type
    config: Any
    generation_config: Any
    get_input_embeddings: Callable[[], torch.nn.Module]
    _encode_images: Callable[..., Any]
    _image_tokens: Callable[..., Any]
    _candidates: Callable[..., Any]
    _padding: Callable[..., Any]
    forward: Callable[..., Any]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Stock loading, with any knob of `PruningOptions` for the configuration.

        Stock copies every argument into the generation configuration too, where a knob would outrank the
        configuration's later values; there it is taken out again.
        """
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        generation_config = (loaded[0] if isinstance(loaded, tuple) else loaded).generation_config
        for name in knobs_within(generation_config).keys() & kwargs.keys():
            delattr(generation_config, name)
        return loaded

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        prefix_allowed_tokens_fn: Callable | None = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> Any:
        """`GenerationMixin.generate` on the pruned prompt; returns the full prompt ids and the new tokens, as stock.

        Every knob of `PruningOptions` can be given for this call, for example `vision_token_budget=16`, or as an
        attribute of a generation configuration: an argument has the last word, then `generation_config`, then
        `self.generation_config`, then `self.config`.

        Raises:
            ValueError: a knob out of range, pictures and image tokens that do not belong together, a picture with a
                cache that already holds tokens, or an assistant model that cannot read the pruned prompt.
        """
        if "forward_budget" in kwargs:  # an assistant model gets the arguments of the model that it drafts for
            kwargs["vision_token_budget"] = kwargs.pop("forward_budget")
        options = self._options(kwargs, generation_config, self.generation_config)
        if inputs is not None and kwargs.get("input_ids") is None:
            kwargs["input_ids"], inputs = inputs, None
        stock_generate = partial(
            super().generate,  # type: ignore[misc]
            generation_config=generation_config,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            synced_gpus=synced_gpus,
            assistant_model=assistant_model,
        )
        callers_eyes = {
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "streamer": streamer,
        }
        input_ids, cached = kwargs.get("input_ids"), CachedPrompt.of(kwargs.get("past_key_values"))
        prompt = "inputs_embeds" if input_ids is None else "input_ids"
        full_length = kwargs[prompt].shape[1] if getattr(kwargs.get(prompt), "ndim", 0) > 1 else 0
        if _has_images(kwargs) and options.vision_token_budget is not None:
            refuse_filled_cache(kwargs.get("past_key_values"))
            if assistant_model is not None:
                refuse_assistant(assistant_model, self)
            pruned = self._pruned_for_generation(kwargs, options, generation_config or self.generation_config)
        elif cached is not None and full_length and not _only_new_tokens(kwargs, full_length):
            pruned = None
            kwargs.update(cached.shortened(kwargs))
        else:
            if _has_images(kwargs):
                # Stock generation encodes the pictures in our forward, which has to know that this call prunes nothing.
                # An argument that a generation configuration has as well does not get there under its own name.
                kwargs["forward_budget"] = None
            else:
                self._require_no_image_tokens(kwargs)
            return stock_generate(inputs, **callers_eyes, **kwargs)

        length = kwargs[prompt].shape[1]
        dropped = full_length - length
        kwargs.update(corrected_lengths((generation_config, self.generation_config), kwargs, dropped))
        if input_ids is not None:
            callers_eyes = {
                "logits_processor": LogitsProcessorList(seeing_full_prompt(logits_processor, input_ids, length)),
                "stopping_criteria": StoppingCriteriaList(seeing_full_prompt(stopping_criteria, input_ids, length)),
                "streamer": None if streamer is None else FullPromptStreamer(streamer, input_ids),
            }
        with nullcontext() if cached is None else cached.set_aside(kwargs["past_key_values"]):
            output = stock_generate(**callers_eyes, **kwargs)
        return self._with_full_prompt(output, input_ids, length, pruned)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        *args: Any,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        pruned_prefill: PrunedPrefill | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Stock inputs of one step, with the kept vision tokens in place of the image tokens' embeddings.

        `forward_budget`, where it is given, is the `vision_token_budget` of the step.
        """
        if "forward_budget" in kwargs:
            kwargs["vision_token_budget"] = kwargs.pop("forward_budget")
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, *args, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs
        )
        ids = inputs.get("input_ids")
        if pruned_prefill is not None and ids is not None:
            start = 0 if past_key_values is None else int(past_key_values.get_seq_length())
            embeds = pruned_prefill.embeddings(ids, start, self.get_input_embeddings())
            if embeds is not None:
                inputs["input_ids"], inputs["inputs_embeds"] = None, embeds
        return inputs

    def _update_model_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Stock, without the vision tokens once a cache holds them: nothing asks for its length at every step."""
        model_kwargs = super()._update_model_kwargs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if model_kwargs.get("past_key_values") is not None:
            model_kwargs.pop("pruned_prefill", None)
        return model_kwargs

    def _pruned_for_generation(
        self, kwargs: dict[str, Any], options: PruningOptions, generation_config: GenerationConfig
    ) -> PrunedPrompt:
        """Prunes the prompt in the arguments of `generate`, which afterwards are those of the shorter prompt."""
        input_ids, inputs_embeds = kwargs.get("input_ids"), kwargs.pop("inputs_embeds", None)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None and input_ids is not None:
            attention_mask = inferred_attention_mask(input_ids, generation_config, kwargs)
        image_inputs = _taken_image_inputs(kwargs)
        with torch.no_grad():
            prompt = self._read_prompt(input_ids, inputs_embeds, attention_mask)
            prompt.require_one_value_a_token("position_ids", kwargs.get("position_ids"))
            pruned = self._prune(prompt, image_inputs, options)
        kwargs.update(pruned.per_token_inputs(kwargs))
        if pruned.attention_mask is not None:
            kwargs["attention_mask"] = pruned.attention_mask
        if input_ids is None:
            kwargs["inputs_embeds"] = pruned.inputs_embeds
        else:
            kwargs["input_ids"] = pruned.input_ids
            kwargs["pruned_prefill"] = PrunedPrefill.of(pruned, only_vision=inputs_embeds is None)
        return pruned

    def _with_full_prompt(
        self, output: Any, input_ids: torch.Tensor | None, length: int, pruned: PrunedPrompt | None
    ) -> Any:
        """What `generate` returns, for the caller's prompt in place of the shorter one of `length` tokens."""
        if isinstance(output, torch.Tensor):
            return output if input_ids is None else with_full_prompt(output, input_ids, length)
        if input_ids is not None:
            output.sequences = with_full_prompt(output.sequences, input_ids, length)
        if pruned is not None:
            for name in ("hidden_states", "attentions"):
                if getattr(output, name, None) is not None:
                    setattr(output, name, pruned.steps_aligned(getattr(output, name)))
            CachedPrompt.attach(getattr(output, "past_key_values", None), pruned)
        return output

    def _require_no_image_tokens(self, kwargs: dict[str, Any]) -> None:
        """Raises a ValueError for image tokens that have no picture."""
        input_ids = kwargs.get("input_ids")
        given = ("inputs_embeds", "mm_encoder_outputs", "pruned_prefill", "past_key_values")
        if input_ids is None or any(kwargs.get(name) is not None for name in given):
            return
        found = int((input_ids == self.config.image_token_id).sum())
        if found:
            raise ValueError(
                f"The prompts have {found} image tokens and no pictures: give pixel_values, one picture for each "
                "<image> of the text."
            )

    def select_vision_tokens(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> VisionTokenSelection:
        """Says which vision tokens `generate` with these inputs would keep, and why, without generating.

        Args:
            input_ids, attention_mask, inputs_embeds: as for `forward`.
            generation_config: as for `generate`; only its knobs count.
            **kwargs: `pixel_values` and, for LLaVA-NeXT, `image_sizes`; any knob of `PruningOptions`.

        Returns:
            `VisionTokenSelection`; `images` is empty for a prompt without pictures.

        Raises:
            ValueError: as `generate`.
        """
        options = self._options(kwargs, generation_config, self.generation_config)
        known = inspect.signature(self.forward).parameters.keys() | {"token_type_ids", "mm_token_type_ids"}
        unknown = sorted(kwargs.keys() - known)
        if unknown:
            raise ValueError(f"{unknown[0]} is neither an input nor a knob: the knobs are {', '.join(KNOB_NAMES)}.")
        if not _has_images(kwargs):
            read = self._read_prompt(input_ids, inputs_embeds, attention_mask)
            return VisionTokenSelection([], read.mask_on_host.bool().to(read.device))
        with torch.no_grad():
            prompt = self._read_prompt(input_ids, inputs_embeds, attention_mask)
            selection, rows, _ = self._select(prompt, _taken_image_inputs(kwargs), options, explain=True)
        kept = prompt.kept_mask(selection.kept(options.keep_image_newline))
        return VisionTokenSelection(describe(selection, rows), kept)

    def _forward(
        self,
        stock_forward: Callable,
        inputs: dict[str, Any],
        image_inputs: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> Any:
        """The forward of both classes; a decoding step takes the short way to the stock forward."""
        inputs = {name: value for name, value in inputs.items() if value is not None}
        image_inputs = {name: value for name, value in image_inputs.items() if value is not None}
        budget = kwargs.get("vision_token_budget", self.config.vision_token_budget)
        if CachedPrompt.of(inputs.get("past_key_values")) is not None and not _has_images(image_inputs):
            inputs = CachedPrompt.of(inputs["past_key_values"]).step(inputs)
        if budget is not None and _has_images(image_inputs):
            return self._forward_pruned(stock_forward, {**inputs, **kwargs}, image_inputs)
        if budget is not None and (inputs.get("mm_encoder_outputs") or {}).get("image") is not None:
            raise ValueError(
                "mm_encoder_outputs holds encoded pictures, which cannot be pruned: give pixel_values, or turn pruning "
                "off with vision_token_budget=None."
            )
        stock_kwargs = {name: value for name, value in kwargs.items() if name not in KNOB_NAMES}
        return stock_forward(**inputs, **image_inputs, **stock_kwargs)

    def _forward_pruned(self, stock_forward: Callable, inputs: dict[str, Any], image_inputs: dict[str, Any]) -> Any:
        """`forward` with pictures: prunes, calls the stock forward on the shorter prompt, aligns what comes back."""
        options = self._options(inputs)
        refuse_filled_cache(inputs.get("past_key_values"))
        return_dict = inputs.pop("return_dict", None)
        labels, logits_to_keep = inputs.pop("labels", None), inputs.pop("logits_to_keep", 0)
        prompt = self._read_prompt(
            inputs.pop("input_ids", None), inputs.pop("inputs_embeds", None), inputs.pop("attention_mask", None)
        )
        prompt.require_one_value_a_token("labels", labels)
        for name in ("position_ids", "shift_labels"):
            prompt.require_one_value_a_token(name, inputs.get(name))
        pruned = self._prune(prompt, image_inputs, options)
        if labels is not None:
            inputs["labels"] = pruned.labels(labels)
        inputs.update(pruned.per_token_inputs(inputs))
        output = stock_forward(
            inputs_embeds=pruned.inputs_embeds, attention_mask=pruned.attention_mask, return_dict=True, **inputs
        )
        result = self.output_class(
            **pruned.aligned(output, logits_to_keep),
            image_hidden_states=pruned.image_features,
            kept_mask=pruned.kept.to(pruned.inputs_embeds.device),
        )
        CachedPrompt.attach(output.get("past_key_values"), pruned)
        wants_dict = return_dict if return_dict is not None else getattr(self.config, "return_dict", True)
        return result if wants_dict else result.to_tuple()

    def _options(self, kwargs: dict[str, Any], *generation_configs: GenerationConfig | None) -> PruningOptions:
        """The knobs of one call: of its keyword arguments, out of which they are taken, else of the first generation
        configuration that has them, else of the configuration."""
        overrides: dict[str, Any] = {}
        for config in reversed(generation_configs):
            overrides.update(knobs_within(config))
        overrides.update({name: kwargs.pop(name) for name in KNOB_NAMES if name in kwargs})
        return PruningOptions.from_config(self.config, **overrides)

    def _read_prompt(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> Prompt:
        embed = self.get_input_embeddings()
        return Prompt.read(input_ids, inputs_embeds, attention_mask, self.config.image_token_id, embed)

    def _prune(self, prompt: Prompt, image_inputs: dict[str, Any], options: PruningOptions) -> PrunedPrompt:
        selection, _, projected = self._select(prompt, image_inputs, options)
        kept_vision = selection.kept(options.keep_image_newline)
        return PrunedPrompt.of(prompt, projected, kept_vision, self.get_input_embeddings(), self._filler_id())

    def _select(
        self, prompt: Prompt, image_inputs: dict[str, Any], options: PruningOptions, *, explain: bool = False
    ) -> tuple[BatchSelection, list[int], Sequence[torch.Tensor]]:
        """Encodes the pictures and selects.

        Returns:
            the picks; the batch row of each picture; for each picture (T, hidden) its projected tokens.
        """
        # Whatever the host has to know is read before the pictures are encoded, and nothing after: until the prompt is
        # pruned, nothing waits for the vision tower.
        if isinstance(image_inputs.get("image_sizes"), torch.Tensor):
            image_inputs = {**image_inputs, "image_sizes": image_inputs["image_sizes"].cpu()}
        text, text_mask = self._text_embeddings(prompt, options)
        padding = self._padding(image_inputs["pixel_values"]) if options.exclude_padding else None
        projected, raw = self._encode_images(image_inputs)
        images = self._image_tokens(projected, raw, image_inputs)
        rows = prompt.rows_of_images([len(image.source) for image in images])
        owners = torch.tensor(rows, dtype=torch.long)
        selection = select_units(
            [features.detach() for features in projected],
            raw.flatten(0, -2).detach(),
            images,
            text.detach()[sent(owners, text.device)],
            text_mask[owners],
            None if padding is None else self._candidates(images, padding),
            _settings(options),
            explain=explain,
        )
        return selection, rows, projected

    def _text_embeddings(self, prompt: Prompt, options: PruningOptions) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, hidden) embeddings of the text to cover and (B, M) bool on the CPU, False for fillers."""
        embed, ids = self.get_input_embeddings(), prompt.ids_on_host
        if ids is None:
            vocabulary = torch.arange(self.config.get_text_config().vocab_size, device=prompt.device)
            ids = ids_of_embeddings(prompt.inputs_embeds.detach(), embed(vocabulary).detach()).cpu()
        order = PackedOrder.of(text_to_cover(ids, prompt.mask_on_host, self._text_rules(options)))
        if prompt.inputs_embeds is not None:
            return order.gather(prompt.inputs_embeds), order.valid
        return embed(order.gather(ids).to(prompt.device)), order.valid

    def _text_rules(self, options: PruningOptions) -> TextRules:
        text_config = self.config.get_text_config()
        special: list[int] = []
        for config in (self.config, text_config):
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                value = getattr(config, name, None)
                special += [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        return TextRules(
            image_token_id=self.config.image_token_id,
            special_token_ids=special,
            ignored_token_ids=options.ignored_token_ids,
            ignored_token_sequences=options.ignored_token_sequences,
            instruction_token_sequences=options.instruction_token_sequences,
            user_turn_token_sequences=options.user_turn_token_sequences,
            assistant_turn_token_sequences=options.assistant_turn_token_sequences,
            word_continuation_bitmap=options.word_continuation_bitmap,
        )

    def _filler_id(self) -> int:
        """Token id for slots that nothing reads."""
        for config in (self.config, self.config.get_text_config()):
            if getattr(config, "pad_token_id", None) is not None:
                return config.pad_token_id
        return 0


class MMTokLlavaForConditionalGeneration(
    MMTokPruningMixin, LlavaVisionMixin, LlavaForConditionalGeneration, GenerationMixin
):
    """`LlavaForConditionalGeneration` that prunes vision tokens as its configuration says."""

    config_class = MMTokLlavaConfig
    config: MMTokLlavaConfig
    output_class = MMTokLlavaCausalLMOutputWithPast

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.FloatTensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_sizes: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stock forward on the pruned prompt; see `LlavaForConditionalGeneration.forward` for the arguments.

        Every knob of `PruningOptions` can be given for this call. Without pictures, or with
        `vision_token_budget=None`, this is the stock forward and its output.

        Returns:
            `MMTokLlavaCausalLMOutputWithPast`, aligned with `input_ids`.

        Raises:
            ValueError: a knob out of range, pictures and image tokens that do not belong together, or a cache that
                already holds tokens.
        """
        image_inputs = {
            "pixel_values": pixel_values,
            "image_sizes": image_sizes,
            "vision_feature_layer": vision_feature_layer,
            "vision_feature_select_strategy": vision_feature_select_strategy,
        }
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "logits_to_keep": logits_to_keep,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        return self._forward(super().forward, inputs, image_inputs, kwargs)


class MMTokLlavaNextForConditionalGeneration(
    MMTokPruningMixin, LlavaNextVisionMixin, LlavaNextForConditionalGeneration, GenerationMixin
):
    """`LlavaNextForConditionalGeneration` that prunes vision tokens, crop by crop, as its configuration says."""

    config_class = MMTokLlavaNextConfig
    config: MMTokLlavaNextConfig
    output_class = MMTokLlavaNextCausalLMOutputWithPast

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_sizes: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.FloatTensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stock forward on the pruned prompt; see `LlavaNextForConditionalGeneration.forward` for the arguments.

        Every knob of `PruningOptions` can be given for this call. Without pictures, or with
        `vision_token_budget=None`, this is the stock forward and its output.

        Returns:
            `MMTokLlavaNextCausalLMOutputWithPast`, aligned with `input_ids`.

        Raises:
            ValueError: a knob out of range, pictures and image tokens that do not belong together, or a cache that
                already holds tokens.
        """
        image_inputs = {
            "pixel_values": pixel_values,
            "image_sizes": image_sizes,
            "vision_feature_layer": vision_feature_layer,
            "vision_feature_select_strategy": vision_feature_select_strategy,
        }
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        return self._forward(super().forward, inputs, image_inputs, kwargs)


def _stock_tuple(output: Any) -> tuple:
    return tuple(value for name, value in output.items() if name != "kept_mask")


def _has_images(inputs: dict[str, Any]) -> bool:
    pixel_values = inputs.get("pixel_values")
    return pixel_values is not None and len(pixel_values) > 0


def _only_new_tokens(inputs: dict[str, Any], length: int) -> bool:
    """Whether the `length` tokens given to `generate` stand behind the cached ones, which the mask covers too."""
    mask = inputs.get("attention_mask")
    return mask is not None and mask.dim() == 2 and mask.shape[1] > length


def _taken_image_inputs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes what belongs to the pictures out of keyword arguments."""
    names = ("pixel_values", "image_sizes", "vision_feature_layer", "vision_feature_select_strategy")
    taken = {name: kwargs.pop(name) for name in names if name in kwargs}
    return {name: value for name, value in taken.items() if value is not None}


def _settings(options: PruningOptions) -> CoverageSettings:
    return CoverageSettings(
        options.vision_token_budget,
        options.budget_scope,
        options.text_coverage_weight,
        options.vision_coverage_weight,
        options.text_temperature,
        options.vision_temperature,
        options.keep_image_newline,
        options.coverage_target,
        options.center_features,
        options.text_temperature_unit,
    )


def _share_checkpoint_layout() -> None:
    """Lets checkpoints in the llava-hf key layout load into our classes.

    transformers looks its key conversions up by class name, and in releases about 5.5 by model type alone; ours are new
    names for the same layout. Versions without the table convert through the class attribute that our classes inherit.
    """
    try:
        from transformers import conversion_mapping
    except ImportError:
        return
    for model_class, base in (
        (MMTokLlavaForConditionalGeneration, "llava"),
        (MMTokLlavaNextForConditionalGeneration, "llava_next"),
    ):
        mapping = conversion_mapping.get_checkpoint_conversion_mapping(base)
        if mapping is not None:
            for name in (model_class.__name__, model_class.config_class.model_type):
                conversion_mapping.register_checkpoint_conversion_mapping(name, mapping, overwrite=True)


_share_checkpoint_layout()

__all__ = [
    "MMTokLlavaForConditionalGeneration",
    "MMTokLlavaNextForConditionalGeneration",
    "MMTokPruningMixin",
]
