"""The `generate`, `forward` and `select_vision_tokens` of every model family: read, encode, select, pack, hand over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from transformers import GenerationMixin

from .arguments import call_options, require_known, taken
from .cached_prompt import CACHED_PROMPT, CachedPrompt
from .devices import sent
from .encoded_images import EncodedImages
from .generation import refuse_filled_cache
from .generation_call import GenerationCall
from .host import STOCK_ARGUMENTS, given_cache, require_stock, with_images
from .image_tokens import KeptVision
from .options import OPTION_NAMES, PruningOptions, options_within
from .paper_selection import in_first_places, selects_before_unpadding
from .prompt import Prompt
from .pruned_prompt import PrunedPrompt
from .question import TextRules, ids_of_embeddings, text_to_cover
from .selection import BatchSelection, select
from .selection_record import VisionTokenSelection, describe

# Arguments of ours beside the options: the mark of a generation step, and images that were encoded before.
_STEP, _ENCODED = "generation_step", "encoded_images"


class MMTokPruningMixin:
    """`generate`, `forward` and `select_vision_tokens` with pruning; the model class behind it is stock transformers.

    A family sets `forward = pruning_forward(Stock, Output)`, names its image arguments and supplies `encode`. Nothing
    is kept on the model between calls.
    """

    # Arguments that belong to the images; the first is the pixels.
    image_arguments: tuple[str, ...] = (
        "pixel_values",
        "image_sizes",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    )
    # Options that mean nothing for the family: only False and None are taken.
    refused_options: tuple[str, ...] = ()
    # (model, image arguments, padding=whether to find the tokens of padding) -> EncodedImages.
    encode: Callable[..., EncodedImages]
    config: Any
    generation_config: Any
    get_input_embeddings: Callable[[], torch.nn.Module]
    forward: Callable[..., Any]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Stock loading, with any option of `PruningOptions` for the configuration.

        Stock copies every argument into the generation configuration too, where an option would outrank the
        configuration's later values; there it is taken out again.
        """
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        generation_config = (loaded[0] if isinstance(loaded, tuple) else loaded).generation_config
        for name in options_within(generation_config).keys() & kwargs.keys():
            delattr(generation_config, name)
        return loaded

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """`GenerationMixin.generate` on the pruned prompt; returns the full prompt ids and the new tokens, as stock.

        Takes the arguments of stock, `encoded_images` in place of pixels, and every option of `PruningOptions` for this
        call, for example `vision_token_budget=16`. An option can also be an attribute of a generation configuration: an
        argument has the last word, then `generation_config`, then `self.generation_config`, then `self.config`.

        Raises:
            ValueError: an option out of range, images and image tokens that do not belong together, an image with a
                cache that already holds tokens, or an assistant model that cannot read the pruned prompt.
        """
        stock_generate = super().generate  # type: ignore[misc]
        arguments = dict(zip(_GENERATE_ARGUMENTS, args, strict=False)) | kwargs
        if _STEP in arguments:  # drafting for a model whose `generate` has dealt with the images
            return stock_generate(**arguments)
        options = self._options(arguments, arguments.get("generation_config"), self.generation_config)
        encoded = arguments.pop(_ENCODED, None)
        call = GenerationCall.read(arguments, self.generation_config)
        self._refuse_videos(arguments, options)
        has_images = encoded is not None or self._has_images(arguments)
        if has_images and (options.prunes or encoded is not None):
            call.require_prunable(self)
            images = taken(arguments, self.image_arguments)
            with torch.no_grad():
                prompt = self.read_prompt(*call.prompt())
                prompt.require_one_value_a_token("position_ids", arguments.get("position_ids"))
                pruned = self.prune_prompt(prompt, encoded, images, options)
            return call.run_pruned(stock_generate, pruned)
        cached = CachedPrompt.of(given_cache(arguments))
        if cached is not None and call.repeats_prompt() and not has_images:
            return call.run_continued(stock_generate, cached)
        has_videos = arguments.get("pixel_values_videos") is not None
        if (has_images or has_videos) and PruningOptions.from_config(self.config).prunes:
            # Stock generation encodes the images in our forward, which has to know that this call prunes nothing. As
            # None, the mark also passes the checks of an assistant model that does not know it.
            arguments[_STEP] = None
        elif not has_images and not has_videos:
            self._require_no_image_tokens(arguments)
        return stock_generate(**arguments)

    def select_vision_tokens(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> VisionTokenSelection:
        """Says which vision tokens `generate` with these inputs would keep, and why, without generating.

        Args:
            input_ids, attention_mask, inputs_embeds: as for `forward`.
            generation_config: as for `generate`; only its options count.
            **kwargs: the image arguments of `forward`, or `encoded_images`; any option of `PruningOptions`.

        Returns:
            `VisionTokenSelection`; `images` is empty for a prompt without images.

        Raises:
            ValueError: as `generate`.
        """
        options = self._options(kwargs, generation_config, self.generation_config)
        self._refuse_videos(kwargs, options)
        encoded = kwargs.pop(_ENCODED, None)
        require_known(kwargs, {*inspect.signature(self.forward).parameters, "token_type_ids", "mm_token_type_ids"})
        with torch.no_grad():
            prompt = self.read_prompt(input_ids, inputs_embeds, attention_mask)
            if encoded is None and not self._has_images(kwargs):
                return VisionTokenSelection([], prompt.mask_on_host.bool().to(prompt.device))
            encoded = self._encoded(encoded, taken(kwargs, self.image_arguments), options)
            selection, rows = self._select(prompt, encoded, options, explain=True)
        kept_vision = selection.kept(options.keep_image_newline)
        if selects_before_unpadding(encoded, options):
            _, kept_vision = in_first_places(encoded, kept_vision)
        kept = prompt.kept_mask(kept_vision)
        return VisionTokenSelection(describe(selection, rows), kept)

    @torch.no_grad()
    def encode_images(self, **image_inputs: Any) -> EncodedImages:
        """Encodes images once, for several calls with `encoded_images`.

        Args:
            **image_inputs: the image arguments of `forward`, `pixel_values` among them.

        Returns:
            `EncodedImages`, one item for each image; `encoded[[0, 0]]` is one image for two prompts of a batch.

        Raises:
            ValueError: an argument that belongs to no image, or pixels that are no images.
        """
        require_known(image_inputs, set(self.image_arguments))
        if not self._has_images(image_inputs):
            raise ValueError(f"{self.image_arguments[0]} is missing: give the processor's pixels.")
        return type(self).encode(self, taken(image_inputs, self.image_arguments), padding=True)

    def _forward(self, stock_forward: Callable, arguments: dict[str, Any]) -> Any:
        """`forward` of a caller, not of a `generate` that has dealt with the images."""
        arguments = {name: value for name, value in arguments.items() if value is not None or name in OPTION_NAMES}
        encoded = arguments.pop(_ENCODED, None)
        cache = given_cache(arguments)
        options = self._options(arguments)
        self._refuse_videos(arguments, options)
        if encoded is None and not self._has_images(arguments):
            self._refuse_encoder_outputs(arguments, options)
            record = CachedPrompt.of(cache)
            return stock_forward(self, **(arguments if record is None else record.step(arguments)))
        if encoded is None and not options.prunes:
            return stock_forward(self, **arguments)
        refuse_filled_cache(cache)
        images = taken(arguments, self.image_arguments)
        prompt = self.read_prompt(*(arguments.pop(name, None) for name in _PROMPT_ARGUMENTS))
        for name in ("labels", "position_ids", "shift_labels"):
            prompt.require_one_value_a_token(name, arguments.get(name))
        pruned = self.prune_prompt(prompt, encoded, images, options)
        return_dict = arguments.pop("return_dict", None)
        logits_to_keep = arguments.pop("logits_to_keep", 0)
        arguments.update(pruned.per_token_inputs(arguments))
        if arguments.get("labels") is not None:
            arguments["labels"] = pruned.labels(arguments["labels"])
        else:
            arguments["logits_to_keep"] = pruned.logits_to_keep(logits_to_keep)
        output = stock_forward(
            self,
            inputs_embeds=pruned.inputs_embeds,
            attention_mask=pruned.attention_mask,
            return_dict=True,
            **arguments,
        )
        CachedPrompt.attach(given_cache(output), pruned)
        output = with_images(pruned.align(output, logits_to_keep), pruned.encoded.outputs, pruned.encoded.projected)
        output.kept_mask = pruned.kept.to(pruned.inputs_embeds.device)
        wants_dict = return_dict if return_dict is not None else getattr(self.config, "return_dict", True)
        return output if wants_dict else output.to_tuple()

    def _options(self, arguments: dict[str, Any], *generation_configs: Any) -> PruningOptions:
        options = call_options(arguments, self.config, *generation_configs)
        for name in self.refused_options:
            if getattr(options, name):
                raise ValueError(
                    f"{name} is {getattr(options, name)!r}, which means nothing for {type(self).__name__}: leave it "
                    "out."
                )
        return options

    def _has_images(self, arguments: Mapping[str, Any]) -> bool:
        pixels = arguments.get(self.image_arguments[0])
        return pixels is not None and len(pixels) > 0

    @staticmethod
    def _refuse_videos(arguments: Mapping[str, Any], options: PruningOptions) -> None:
        """Raises a ValueError for videos that should be pruned."""
        if options.prunes and arguments.get("pixel_values_videos") is not None:
            raise ValueError(
                "pixel_values_videos holds a video, and only images can be pruned: give the frames as images, or turn "
                "pruning off with vision_token_budget=None."
            )

    def _refuse_encoder_outputs(self, arguments: Mapping[str, Any], options: PruningOptions) -> None:
        """Raises a ValueError for images that stock has encoded and that should be pruned."""
        if options.prunes and (arguments.get("mm_encoder_outputs") or {}).get("image") is not None:
            raise ValueError(
                "mm_encoder_outputs holds encoded images, which cannot be pruned: give pixel_values, or encoded_images "
                "from encode_images, or turn pruning off with vision_token_budget=None."
            )

    def _require_no_image_tokens(self, arguments: Mapping[str, Any]) -> None:
        """Raises a ValueError for image tokens that have no image."""
        input_ids = arguments.get("input_ids")
        given = any(arguments.get(name) is not None for name in ("inputs_embeds", "mm_encoder_outputs"))
        if input_ids is None or given or given_cache(arguments) is not None:
            return
        found = int((input_ids == self.config.image_token_id).sum())
        if found:
            raise ValueError(
                f"The prompts have {found} image tokens and no images: give pixel_values, one image for each "
                "<image> of the text."
            )

    def read_prompt(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> Prompt:
        """Checks a prompt and finds its vision tokens; arguments and errors as `Prompt.read`."""
        embed = self.get_input_embeddings()
        return Prompt.read(input_ids, inputs_embeds, attention_mask, self.config.image_token_id, embed)

    def _encoded(self, encoded: EncodedImages | None, images: dict[str, Any], options: PruningOptions) -> EncodedImages:
        """The images that a caller encoded before, or else those of the image arguments."""
        if encoded is None:
            return type(self).encode(self, images, padding=options.exclude_padding)
        if images:
            raise ValueError(f"encoded_images and {next(iter(images))} were both given: give one of them.")
        if not isinstance(encoded, EncodedImages):
            raise ValueError(f"encoded_images is a {type(encoded).__name__}: give what encode_images returned.")
        return encoded

    def prune_prompt(
        self, prompt: Prompt, encoded: EncodedImages | None, images: dict[str, Any], options: PruningOptions
    ) -> PrunedPrompt:
        """The prompt with the vision tokens that the options keep.

        Args:
            prompt: the full prompt.
            encoded: its images, or None.
            images: image arguments, where `encoded` is None.
            options: of the pruning.
        """
        # The question is read before the images are encoded: from then on nothing waits for the vision tower.
        text = self.question_embeddings(prompt, options)
        encoded = self._encoded(encoded, images, options)
        selection, _ = self._select(prompt, encoded, options, text=text)
        kept_vision = selection.kept(options.keep_image_newline)
        if not selects_before_unpadding(encoded, options):
            return self.pack_prompt(prompt, encoded, kept_vision)
        placed, kept_vision = in_first_places(encoded, kept_vision)
        return replace(self.pack_prompt(prompt, placed, kept_vision), encoded=encoded)

    def pack_prompt(self, prompt: Prompt, encoded: EncodedImages, kept_vision: KeptVision) -> PrunedPrompt:
        """The prompt without the vision tokens that were not kept, whoever chose them."""
        return PrunedPrompt.of(prompt, encoded, kept_vision, self.get_input_embeddings(), self._filler_id())

    def _select(
        self,
        prompt: Prompt,
        encoded: EncodedImages,
        options: PruningOptions,
        *,
        text: tuple[torch.Tensor, torch.Tensor] | None = None,
        explain: bool = False,
    ) -> tuple[BatchSelection, list[int]]:
        """Returns the picks, and the batch row of each image."""
        embeddings, text_mask = self.question_embeddings(prompt, options) if text is None else text
        rows = prompt.rows_of_images(encoded.lengths)
        owners = torch.tensor(rows, dtype=torch.long)
        own = embeddings[sent(owners, embeddings.device)]
        if selects_before_unpadding(encoded, options) and encoded.before_unpadding is not None:
            encoded = encoded.before_unpadding
        return select(encoded, own, text_mask[owners], options, explain=explain), rows

    def question_embeddings(self, prompt: Prompt, options: PruningOptions) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, hidden) embeddings of the text to cover and (B, M) bool on the CPU, False for fillers."""
        embed, ids = self.get_input_embeddings(), prompt.ids_on_host
        if ids is None:
            assert prompt.inputs_embeds is not None, "Prompt.read lets no prompt pass that has neither"
            vocabulary = torch.arange(self.config.get_text_config().vocab_size, device=prompt.device)
            ids = ids_of_embeddings(prompt.inputs_embeds.detach(), embed(vocabulary).detach()).cpu()
        text = text_to_cover(ids, prompt.mask_on_host, self._text_rules(options))
        if prompt.inputs_embeds is None:
            return embed(sent(text.ids, prompt.device)), text.valid
        # What stands in the prompt as it is covered counts with the caller's own vector.
        as_written = sent(ids.gather(1, text.positions) == text.ids, prompt.device)[..., None]
        places = sent(text.positions, prompt.device)[..., None].expand(-1, -1, prompt.inputs_embeds.shape[-1])
        known = sent(text.ids, prompt.device).masked_fill(as_written[..., 0], self.config.image_token_id)
        return torch.where(as_written, prompt.inputs_embeds.gather(1, places), embed(known)), text.valid

    def _text_rules(self, options: PruningOptions) -> TextRules:
        special: list[int] = []
        for config in (self.config, self.config.get_text_config()):
            for name in ("bos_token_id", "eos_token_id", "pad_token_id", "video_token_id"):
                value = getattr(config, name, None)
                special += [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        return TextRules(self.config.image_token_id, special, **options.tables)

    def _filler_id(self) -> int:
        """Token id for slots that nothing reads."""
        for config in (self.config, self.config.get_text_config()):
            if getattr(config, "pad_token_id", None) is not None:
                return config.pad_token_id
        return 0


_PROMPT_ARGUMENTS = ("input_ids", "inputs_embeds", "attention_mask")
_GENERATE_ARGUMENTS = tuple(inspect.signature(GenerationMixin.generate).parameters)[1:]


def pruning_forward(stock_class: type, output_class: type) -> Callable:
    """The `forward` of a pruned model class: the stock signature, arguments and output, on the pruned prompt.

    Args:
        stock_class: the stock model class.
        output_class: of its outputs.

    Raises:
        UnsupportedRelease: the installed release lacks what the pruned class relies on.
    """
    require_stock(stock_class, output_class)
    stock_forward = stock_class.forward  # type: ignore[attr-defined]
    signature = inspect.signature(stock_forward)
    names = tuple(signature.parameters)[1:]
    ours = {"pixel_values", "pixel_values_videos", "mm_encoder_outputs"}
    passed_on = {*names, *STOCK_ARGUMENTS} - ours

    @wraps(stock_forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = dict(zip(names, args, strict=False)) | kwargs if args else kwargs
        if _STEP in arguments:
            step = arguments.pop(_STEP)
            if step is not None:
                arguments = step.arguments(arguments, self.get_input_embeddings())
            return stock_forward(self, **arguments)
        if arguments.keys() <= passed_on and not hasattr(given_cache(arguments), CACHED_PROMPT):
            return stock_forward(self, **arguments)  # text: costs what it costs in stock
        return self._forward(stock_forward, arguments)

    # `generate` reads the signature to tell which arguments to pass on.
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in (_STEP, _ENCODED)]
    *named, further = signature.parameters.values()
    forward.__signature__ = signature.replace(parameters=[*named, *own, further])  # type: ignore[attr-defined]
    forward.__doc__ = f"""`{stock_class.__name__}.forward` on the pruned prompt, with the same arguments.

        Every option of `PruningOptions` can be given for this call, and `encoded_images` in place of pixels. Without
        images, or with `vision_token_budget=None`, this is the stock forward and its output.

        Returns:
            the stock output, aligned with `input_ids`: logits, hidden states and attentions are 0 for tokens that were
            dropped. Its attribute `kept_mask`, (B, L) bool, says which tokens the language model read; it is no part of
            the tuple, which is stock's.

        Raises:
            ValueError: an option out of range, images and image tokens that do not belong together, or a cache that
                already holds tokens.
        """
    return forward
