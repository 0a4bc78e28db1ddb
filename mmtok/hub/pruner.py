"""The `generate`, `forward` and `select_vision_tokens` of every model family: read, encode, select, pack, hand over."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from transformers import GenerationMixin

from .arguments import require_known, taken
from .deepstack import DEEPSTACK, adds_deepstack
from .generation import CACHED_PROMPT, CachedPrompt, GenerationCall, refuse_filled_cache
from .host import STOCK_ARGUMENTS, given_cache, require_stock, with_images
from .options import OPTION_NAMES, PruningOptions, options_within
from .paper_selection import in_first_places, selects_before_unpadding
from .pruning_steps import PruningSteps
from .selection import VisionTokenSelection, describe
from .shared_model import unpruned
from .tokenizer_source import TokenizerSource, resolved_revision

# Arguments of ours beside the options: the mark of a generation step, and images that were encoded before.
_STEP, _ENCODED = "generation_step", "encoded_images"


class MMTokPruningMixin(PruningSteps):
    """`generate`, `forward` and `select_vision_tokens` with pruning; the model class behind it is stock transformers.

    A family sets `forward = pruning_forward(Stock, Output)`, names its image arguments and supplies `encode`. Nothing
    is kept on the model between calls.
    """

    generation_config: Any
    forward: Callable[..., Any]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Stock loading, with any option of `PruningOptions` for the configuration.

        Stock copies every argument into the generation configuration too, where an option would outrank the
        configuration's later values; there it is taken out again.
        """
        name = args[0] if args else kwargs["pretrained_model_name_or_path"]
        kwargs |= resolved_revision(name, kwargs)
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for option in options_within(model.generation_config).keys() & kwargs.keys():
            delattr(model.generation_config, option)
        where = {each: kwargs[each] for each in _WHERE if kwargs.get(each) is not None}
        commit = getattr(kwargs.get("revision"), "resolved", getattr(model.config, "_commit_hash", None))
        model._tokenizer_source = TokenizerSource(name=name, commit=commit, hub_arguments=where)
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Stock saving, and `tokenizer.json` beside the weights where there is none yet."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", args[0] if args else True):
            self.tokenizer_source.copy_to(save_directory)

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
        self._refuse_encoder_outputs(arguments, options)
        has_images = encoded is not None or self._has_images(arguments)
        if has_images and (options.prunes or encoded is not None):
            call.require_prunable(self)
            images = taken(arguments, self.visual_arguments)
            with torch.no_grad():
                prompt = self.read_prompt(*call.prompt(), videos=self._has_videos(images, encoded))
                prompt.require_per_token(arguments)
                pruned = self.prune_prompt(prompt, encoded, images, options, arguments.get("position_ids"))
            return call.run_pruned(stock_generate, pruned)
        cached = CachedPrompt.of(given_cache(arguments))
        if cached is not None and call.repeats_prompt() and not has_images:
            return call.run_continued(stock_generate, cached)
        if cached is not None and cached.pruned.positions is not None and not has_images:
            raise ValueError(
                "The cache holds a pruned prompt, whose tokens keep their positions in the grids of the images: "
                "continue from the returned sequences, with a mask for those or none."
            )
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
            videos = self._has_videos(kwargs, encoded)
            prompt = self.read_prompt(input_ids, inputs_embeds, attention_mask, videos=videos)
            if encoded is None and not self._has_images(kwargs):
                return VisionTokenSelection([], prompt.mask_on_host.bool().to(prompt.device))
            encoded = self._encoded(prompt, encoded, taken(kwargs, self.visual_arguments), options)
            questions = self.questions(prompt, options)
            text = self.question_embeddings(questions, prompt.device)
            selection, rows = self._select(prompt, encoded, options, text, explain=True)
        layouts, kept = encoded.layouts, selection
        if selects_before_unpadding(encoded, options) and encoded.before_unpadding is not None:
            layouts = encoded.before_unpadding.layouts
            _, kept = in_first_places(encoded, selection)
        return VisionTokenSelection(describe(selection, layouts, rows, questions), prompt.kept_mask(kept))

    def unpruned(self) -> Any:
        """The stock model with the same modules: the one that was given to `mmtok.prune`, or a new object.

        Nothing is copied: what changes the weights of one, or moves them, changes or moves both.
        """
        return unpruned(self)

    def _forward(self, stock_forward: Callable, arguments: dict[str, Any]) -> Any:
        """`forward` of a caller, not of a `generate` that has dealt with the images."""
        arguments = {name: value for name, value in arguments.items() if value is not None or name in OPTION_NAMES}
        encoded = arguments.pop(_ENCODED, None)
        cache = given_cache(arguments)
        options = self._options(arguments)
        self._refuse_videos(arguments, options)
        self._refuse_encoder_outputs(arguments, options)
        if encoded is None and not self._has_images(arguments):
            record = CachedPrompt.of(cache)
            return stock_forward(self, **(arguments if record is None else record.step(arguments)))
        if encoded is None and not options.prunes:
            return stock_forward(self, **arguments)
        refuse_filled_cache(cache)
        images = taken(arguments, self.visual_arguments)
        given = [arguments.pop(name, None) for name in _PROMPT_ARGUMENTS]
        prompt = self.read_prompt(*given, videos=self._has_videos(images, encoded))
        prompt.require_per_token(arguments)
        pruned = self.prune_prompt(prompt, encoded, images, options, arguments.get("position_ids"))
        return_dict = arguments.pop("return_dict", None)
        logits_to_keep = arguments.pop("logits_to_keep", 0)
        arguments.update(pruned.per_token_inputs(arguments))
        if arguments.get("labels") is not None:
            arguments["labels"] = pruned.labels(arguments["labels"])
        else:
            arguments["logits_to_keep"] = pruned.logits_to_keep(logits_to_keep)
        if pruned.deepstack is not None:
            arguments[DEEPSTACK] = pruned.deepstack.arguments()
        with adds_deepstack(self, arguments):
            output = stock_forward(
                self,
                inputs_embeds=pruned.inputs_embeds,
                attention_mask=pruned.attention_mask,
                return_dict=True,
                **arguments,
            )
        CachedPrompt.attach(given_cache(output), pruned)
        own = pruned.encoded
        output = with_images(
            pruned.align(output, logits_to_keep),
            (own.outputs, own.projected_of(videos=False)),
            (own.video_outputs, own.projected_of(videos=True)),
        )
        output.kept_mask = pruned.kept.to(pruned.inputs_embeds.device)
        wants_dict = return_dict if return_dict is not None else getattr(self.config, "return_dict", True)
        return output if wants_dict else output.to_tuple()


# Arguments of `from_pretrained` that say where the files of a checkpoint are.
_WHERE = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")
_PROMPT_ARGUMENTS = ("input_ids", "inputs_embeds", "attention_mask")
_GENERATE_ARGUMENTS = tuple(inspect.signature(GenerationMixin.generate).parameters)[1:]


def pruning_forward(stock_class: type, output_class: type, *, returns_images: bool = True) -> Callable:
    """The `forward` of a pruned model class: the stock signature, arguments and output, on the pruned prompt.

    Args:
        stock_class: the stock model class.
        output_class: of its outputs.
        returns_images: whether its outputs hold the encoded images on every release.

    Raises:
        UnsupportedRelease: the installed release lacks what the pruned class relies on.
    """
    require_stock(stock_class, output_class, returns_images=returns_images)
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
            with adds_deepstack(self, arguments):
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
