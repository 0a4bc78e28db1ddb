"""A stock model class that prunes: read the prompt, encode, select, pack, hand over; shared by every family.

What is said of images holds for the videos of the families that read them; each frame of a video is a crop.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, ClassVar

import torch
from transformers import GenerationMixin, PreTrainedModel

from configuration_mmtok import config_class

from .devices import to_device
from .families import PREFIX, class_of
from .generation import CACHED_PROMPT, CachedPrompt, GenerationCall, adds_deepstack, refuse_filled_cache
from .images import EncodedVision, Geometry, Layout
from .options import (
    ENCODING_OPTIONS,
    OPTION_NAMES,
    PruningOptions,
    call_options,
    options_within,
    pop_given,
    require_known,
    require_meaningful,
)
from .prompt import DEEPSTACK, GridPositions, Prompt, PrunedPrompt, deepstack_arguments
from .prune import unpruned
from .question import Question
from .releases import (
    STOCK_ARGUMENTS,
    given_cache,
    require_stock,
    share_checkpoint_layout,
    with_images,
)
from .selection import ImageSelection, Selection, VisionTokenSelection, describe, select
from .tokenizer_source import TokenizerSource, resolved_revision, source_of, special_ids

# Arguments of ours beside the options: the mark of a generation step, and images that were encoded before.
_STEP, _ENCODED = "generation_step", "encoded_images"
# Towers whose images have a fixed number of tokens.
FIXED_GRID_TOWERS = ("clip_vision_model", "siglip_vision_model")


class PrunedModel:
    """`generate`, `forward` and `select_vision_tokens` with pruning; the model class behind it is stock transformers.

    A family derives from it and from its stock class, declares what follows, and supplies `encode`. `forward`, the
    configuration class and the layout of checkpoints follow from the stock class. Nothing is kept on the model between
    calls.
    """

    # What is known of an image without its pixels.
    geometry_class: ClassVar[type[Geometry]] = Geometry
    # Arguments that belong to the images; the first is the pixels.
    image_arguments: ClassVar[tuple[str, ...]] = (
        "pixel_values",
        "image_sizes",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    )
    # The same for videos; empty where videos are not pruned.
    video_arguments: ClassVar[tuple[str, ...]] = ()
    # What has a budget of its own in a video.
    frame: ClassVar[str] = ""
    # Of `FAMILY_OPTIONS` those that mean something here -> their values beside the default, None for all.
    own_options: ClassVar[Mapping[str, Sequence[Any] | None]] = {}
    # Options that are ahead of the defaults in docs/reports/quality.md.
    recommended_options: ClassVar[Mapping[str, Any]] = {}
    # Model types of the vision towers whose images can be pruned; empty for a family with a tower of its own.
    towers: ClassVar[tuple[str, ...]] = ()
    # Positions of a token: 1, or 3 for time, height and width, which a kept token keeps and `count_positions` counts.
    position_axes: ClassVar[int] = 1
    # Whether the tokens of an image see each other in both directions.
    sees_both_ways: ClassVar[bool] = False
    # Whether the stock outputs hold the encoded images on every release.
    returns_images: ClassVar[bool] = True
    config_class: Any
    config: Any
    generation_config: Any
    forward: Callable[..., Any]
    get_input_embeddings: Callable[[], torch.nn.Module]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        stock = next((base for base in cls.__bases__ if issubclass(base, PreTrainedModel)), None)
        found = class_of(cls.__name__)
        if stock is not None and found is not None:
            model_type, family = found
            cls.config_class = config_class(family.config_class)
            cls.forward = pruning_forward(stock, returns_images=cls.returns_images)
            # transformers looks in the source of a class for experts that can be chosen: in that of the stock class.
            name = "_can_set_experts_implementation"
            if hasattr(stock, name):
                setattr(cls, name, getattr(stock, name))
            share_checkpoint_layout(cls, PREFIX + model_type, stock_class=family.stock_class, stock_type=model_type)
        super().__init_subclass__(**kwargs)

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """The images of these image arguments.

        Args:
            inputs: those of `image_arguments` that were given.
            options: `padding` "exclude" asks for the tokens of padding, `image_scale` for smaller images.
        """
        raise NotImplementedError

    def encode_videos(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """The videos of these video arguments, where the family prunes videos."""
        raise NotImplementedError

    def count_positions(self, prompt: Prompt, layouts: Sequence[Layout]) -> torch.Tensor:
        """(3, B, L) int64 positions of the full prompt with these images and videos, where a token has three."""
        raise NotImplementedError

    def arrange(self, prompt: Prompt, encoded: EncodedVision) -> tuple[Prompt, EncodedVision]:
        """The images in the order in which they stand in the prompt, one item each.

        A family whose pixels do not say which of them form an image finds that here, and tokens of the prompt that
        belong to an image without being encoded.

        Raises:
            ValueError: images and vision tokens that do not belong together.
        """
        return prompt, encoded.ordered(prompt.order_of(encoded.lengths, encoded.videos))

    def selected_from(self, encoded: EncodedVision, options: PruningOptions) -> EncodedVision:
        """The tokens to select from: those of the prompt, unless the family has others for these options."""
        return encoded

    def placed(
        self, encoded: EncodedVision, selected_from: EncodedVision, kept: Selection
    ) -> tuple[EncodedVision, Selection]:
        """What was kept of `selected_from` as tokens of the prompt.

        Returns:
            `encoded` with its `projected` tokens in the order in which the prompt is filled, and the places that are.
        """
        return encoded, kept

    @property
    def geometry(self) -> Geometry:
        """What is known of an image of this model without its pixels."""
        return self.geometry_class(self.config)

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
        has_images = encoded is not None or self._has_images(arguments)
        if has_images and (options.prunes or encoded is not None):
            call.require_prunable(self)
            with torch.no_grad():
                prompt = self.read_prompt(*call.prompt(), videos=self._has_videos(arguments, encoded))
                pruned = self.prune_prompt(prompt, encoded, arguments, options)
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
        encoded = kwargs.pop(_ENCODED, None)
        require_known(kwargs, {*inspect.signature(self.forward).parameters, "token_type_ids", "mm_token_type_ids"})
        with torch.no_grad():
            videos = self._has_videos(kwargs, encoded)
            prompt = self.read_prompt(input_ids, inputs_embeds, attention_mask, videos=videos)
            if encoded is None and not self._has_images(kwargs):
                return VisionTokenSelection([], prompt.mask_on_host.bool().to(prompt.device))
            prompt, _, _, kept, described = self._selected(prompt, encoded, kwargs, options, explain=True)
        return VisionTokenSelection(described, prompt.kept_mask(kept))

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
        if encoded is None and not self._has_images(arguments):
            record = CachedPrompt.of(cache)
            return stock_forward(self, **(arguments if record is None else record.step(arguments)))
        if encoded is None and not options.prunes:
            return stock_forward(self, **arguments)
        refuse_filled_cache(cache)
        given = [arguments.pop(name, None) for name in ("input_ids", "inputs_embeds", "attention_mask")]
        prompt = self.read_prompt(*given, videos=self._has_videos(arguments, encoded))
        pruned = self.prune_prompt(prompt, encoded, arguments, options)
        return_dict = arguments.pop("return_dict", None)
        logits_to_keep = arguments.pop("logits_to_keep", 0)
        arguments.update(pruned.per_token_inputs(arguments))
        if arguments.get("labels") is not None:
            arguments["labels"] = pruned.labels(arguments["labels"])
        else:
            arguments["logits_to_keep"] = pruned.logits_to_keep(logits_to_keep)
        if pruned.deepstack is not None:
            arguments[DEEPSTACK] = deepstack_arguments(pruned.vision_slots, pruned.deepstack)
        with adds_deepstack(self, arguments):
            output = stock_forward(
                self,
                inputs_embeds=pruned.inputs_embeds,
                attention_mask=pruned.attention_mask,
                return_dict=True,
                **arguments,
            )
        CachedPrompt.attach(given_cache(output), pruned)
        output = with_images(pruned.align(output, logits_to_keep), pruned.encoded)
        output.kept_mask = pruned.kept.to(pruned.inputs_embeds.device)
        wants_dict = return_dict if return_dict is not None else getattr(self.config, "return_dict", True)
        return output if wants_dict else output.to_tuple()

    @torch.no_grad()
    def encode_images(self, **image_inputs: Any) -> EncodedVision:
        """Encodes images and videos once, for several calls with `encoded_images`.

        Args:
            **image_inputs: the image and video arguments of `forward`, `pixel_values` or `pixel_values_videos` among
                them; `image_scale` in place of the configuration's.

        Returns:
            `EncodedVision`, one item for each image and then for each video; `encoded[[0, 0]]` is one image for two
            prompts of a batch.

        Raises:
            ValueError: an argument that belongs to no image, or pixels that are not images.
        """
        options = self._options({name: image_inputs.pop(name) for name in ENCODING_OPTIONS & image_inputs.keys()})
        require_known(image_inputs, set(self.visual_arguments))
        if not self._has_images(image_inputs):
            raise ValueError(f"{self.image_arguments[0]} is missing: give the processor's pixels.")
        images = pop_given(image_inputs, self.visual_arguments)
        return self._encode(images, replace(options, padding="exclude"))

    @property
    def visual_arguments(self) -> tuple[str, ...]:
        """The arguments that belong to images and videos."""
        return (*self.image_arguments, *self.video_arguments)

    def _options(self, arguments: dict[str, Any], *generation_configs: Any) -> PruningOptions:
        """The options of a call, which are taken out of its arguments.

        Raises:
            ValueError: options that mean nothing, or images and videos that should be pruned and cannot be.
        """
        options = call_options(arguments, self.config, *generation_configs)
        require_meaningful(options, self.own_options, type(self).__name__)
        if not options.prunes:
            return options
        if not self.video_arguments and arguments.get("pixel_values_videos") is not None:
            raise ValueError(
                "pixel_values_videos holds a video, and only images can be pruned: give the frames as images, or turn "
                "pruning off with vision_token_budget=None."
            )
        given = arguments.get("mm_encoder_outputs") or {}
        for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            if given.get(kind) is not None:
                raise ValueError(
                    f"mm_encoder_outputs holds encoded {kind}s, which cannot be pruned: give {pixels}, or "
                    "encoded_images from encode_images, or turn pruning off with vision_token_budget=None."
                )
        return options

    def _has_images(self, arguments: Mapping[str, Any]) -> bool:
        """Whether there are pixels of images, or of videos that can be pruned."""
        return any(_has_pixels(arguments, names) for names in (self.image_arguments, self.video_arguments))

    def _has_videos(self, arguments: Mapping[str, Any], encoded: Any) -> bool:
        """Whether there are videos that can be pruned, encoded or not."""
        if isinstance(encoded, EncodedVision):
            return any(encoded.videos)
        return _has_pixels(arguments, self.video_arguments)

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
        *,
        videos: bool = False,
    ) -> Prompt:
        """Checks a prompt and finds its vision tokens; arguments and errors as `Prompt.read`.

        Without `videos` the token that stands for them is text, as in stock.
        """
        video_token = self.config.video_token_id if videos else None
        embed = self.get_input_embeddings()
        return Prompt.read(input_ids, inputs_embeds, attention_mask, self.config.image_token_id, embed, video_token)

    def _encode(self, images: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """The images and then the videos of these arguments."""
        parts = []
        for names, encode in ((self.image_arguments, self.encode), (self.video_arguments, self.encode_videos)):
            if _has_pixels(images, names):
                parts.append(encode({name: images[name] for name in names if name in images}, options))
        return parts[0] if len(parts) == 1 else EncodedVision.joined(*parts)

    def prune_prompt(
        self, prompt: Prompt, encoded: EncodedVision | None, arguments: dict[str, Any], options: PruningOptions
    ) -> PrunedPrompt:
        """The prompt with the vision tokens that the options keep.

        Its images are encoded, or among the arguments of the call, out of which they are taken.
        """
        prompt.require_per_token(arguments, axes=self.position_axes)
        position_ids = arguments.get("position_ids")
        if options.image_scale is not None and position_ids is not None:
            raise ValueError(
                "position_ids was given, which are those of whole images, and image_scale shrinks them: leave one of "
                "them out."
            )
        prompt, encoded, placed, kept, _ = self._selected(prompt, encoded, arguments, options)
        return replace(self.pack_prompt(prompt, placed, kept, position_ids), encoded=encoded)

    def pack_prompt(
        self,
        prompt: Prompt,
        encoded: EncodedVision,
        kept_vision: Selection,
        position_ids: torch.Tensor | None = None,
    ) -> PrunedPrompt:
        """The prompt without the vision tokens that were not kept, whoever chose them."""
        configs = (self.config, self.config.get_text_config())
        # For slots that nothing reads.
        filler_id = next((each for config in configs if (each := getattr(config, "pad_token_id", None)) is not None), 0)
        pruned = PrunedPrompt.of(prompt, encoded, kept_vision, self.get_input_embeddings(), filler_id)
        if self.position_axes == 1:
            return pruned
        if position_ids is None:
            position_ids = self.count_positions(prompt, encoded.layouts)
        positions = GridPositions.of(position_ids, prompt)
        dropped = prompt.lengths - torch.tensor(pruned.lengths)[:, None]
        return replace(pruned, positions=positions.packed(pruned.order, dropped, prompt.device))

    def _selected(
        self,
        prompt: Prompt,
        encoded: EncodedVision | None,
        arguments: dict[str, Any],
        options: PruningOptions,
        *,
        explain: bool = False,
    ) -> tuple[Prompt, EncodedVision, EncodedVision, Selection, list[ImageSelection]]:
        """Encodes and selects; arguments as for `prune_prompt`.

        Returns:
            Prompt and images, arranged; the images with their tokens placed, and those that stay; and with `explain`
            the record of each image.
        """
        images = pop_given(arguments, self.visual_arguments)
        # The question is read before the images are encoded: from then on nothing waits for the vision tower.
        questions = self.questions(prompt, options)
        text, text_mask = self.question_embeddings(questions, prompt.device)
        if encoded is None:
            encoded = self._encode(images, options)
        elif images:
            raise ValueError(f"encoded_images and {next(iter(images))} were both given: give one of them.")
        elif not isinstance(encoded, EncodedVision):
            raise ValueError(f"encoded_images is a {type(encoded).__name__}: give what encode_images returned.")
        for layout in encoded.layouts:
            if layout.scale != options.image_scale:
                raise ValueError(
                    f"image_scale is {options.image_scale}, and encode_images had {layout.scale}: give both the same."
                )
        prompt, encoded = self.arrange(prompt, encoded)
        selected_from = self.selected_from(encoded, options)
        rows = prompt.rows_of_images(encoded.lengths)
        described: list[ImageSelection] = []
        if options.vision_token_budget is None and options.image_scale is not None and not explain:
            # Shrunk and read whole: there is nothing to select.
            kept = Selection.of([torch.ones(count, dtype=torch.bool) for count in encoded.lengths], encoded.layouts)
        else:
            readable = prompt.readable(encoded.lengths)
            if readable is not None and selected_from is not encoded:
                raise ValueError(
                    "attention_mask hides vision tokens, and padding 'include' moves tokens within their image: set "
                    "padding to 'stock'."
                )
            owners = torch.tensor(rows, dtype=torch.long)
            text, text_mask = text[to_device(owners, text.device)], text_mask[owners]
            kept = select(selected_from, text, text_mask, options, readable=readable, explain=explain)
            described = describe(kept, selected_from.layouts, rows, questions) if explain else []
        return prompt, encoded, *self.placed(encoded, selected_from, kept), described

    def questions(self, prompt: Prompt, options: PruningOptions) -> list[Question]:
        """What each prompt of the batch asks, or `options.covered_text` for all of them.

        Where there is no tokenizer to read it with, the ids of a prompt that are not special are its question. Where
        the question has no weight it is not read: rows of zeros would only change how sums are rounded.
        """
        if options.text_coverage_weight == 0:
            return [Question((), ())] * len(prompt.mask_on_host)
        objects = [self.config.image_token_id, getattr(self.config, "video_token_id", None)]
        objects = [each for each in objects if each is not None]
        reader = self.tokenizer_source.reader(options.question_format, objects)
        if options.covered_text is not None:
            if reader is None:
                raise ValueError(
                    f"covered_text is {options.covered_text!r}, and there is no tokenizer to read it with: save the "
                    "processor beside the weights, or give it to mmtok.prune."
                )
            return [reader.read_text(options.covered_text)] * len(prompt.mask_on_host)
        vocabulary = self.config.get_text_config().vocab_size
        every = prompt.ids_on_host
        if every is None:  # those that the embeddings were looked up with
            assert prompt.inputs_embeds is not None, "Prompt.read lets no prompt pass that has neither"
            table = self.get_input_embeddings()(torch.arange(vocabulary, device=prompt.device))
            every = ids_of_embeddings(prompt.inputs_embeds.detach(), table.detach()).cpu()
        # One token stands for a whole run of vision tokens, so that the work grows with the text alone.
        repeated = torch.nn.functional.pad(prompt.image_mask[:, 1:] & prompt.image_mask[:, :-1], (1, 0))
        shown = zip(every, prompt.mask_on_host.bool() & ~repeated, strict=True)
        rows = [ids[own].tolist() for ids, own in shown]
        if reader is not None:
            return list(map(reader.read, rows))
        # Vectors that are in no row of the table, such as those of soft prompts, have the first id behind it.
        special = {*objects, *special_ids(self.config), vocabulary}
        return [Question((), tuple(index for index in row if index not in special)) for row in rows]

    def question_embeddings(
        self, questions: Sequence[Question], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, hidden) embeddings of the words to cover and (B, M) bool on the CPU, False for fillers."""
        width = max((len(each.ids) for each in questions), default=0)
        ids = torch.tensor([[*each.ids, *[0] * (width - len(each.ids))] for each in questions], dtype=torch.long)
        valid = torch.arange(width) < torch.tensor([len(each.ids) for each in questions])[:, None]
        return self.get_input_embeddings()(to_device(ids, device)), valid

    @property
    def tokenizer_source(self) -> TokenizerSource:
        """Where the tokenizer is that reads the questions: beside the weights, or what `mmtok.prune` was given."""
        own = vars(self).get("_tokenizer_source")
        return own or source_of(self.config._name_or_path, getattr(self.config, "_commit_hash", None))


def _has_pixels(arguments: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether the first of some arguments, the pixels, is given and not empty."""
    pixels = arguments.get(names[0]) if names else None
    return pixels is not None and (not hasattr(pixels, "__len__") or len(pixels) > 0)


# Arguments of `from_pretrained` that say where the files of a checkpoint are.
_WHERE = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")
_GENERATE_ARGUMENTS = tuple(inspect.signature(GenerationMixin.generate).parameters)[1:]


def pruning_forward(stock_class: type, *, returns_images: bool = True) -> Callable:
    """The `forward` of a pruned model class: the stock signature, arguments and output, on the pruned prompt.

    Raises:
        UnsupportedRelease: the installed release lacks what the pruned class relies on.
    """
    require_stock(stock_class, returns_images=returns_images)
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


def ids_of_embeddings(inputs_embeds: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(B, L) int64, the token ids that (B, L, hidden) embeddings were looked up with in a (V, hidden) table.

    It is V for vectors that are in no row of the table, such as those of vision tokens or soft prompts.
    """
    flat = inputs_embeds.flatten(0, 1)
    table = table.to(flat.device, flat.dtype)
    ids = torch.full((len(flat),), len(table), device=flat.device)
    # A few components leave hardly any pair to compare in full; the slices bound the memory.
    for start in range(0, len(flat), 256):
        rows = flat[start : start + 256]
        same = torch.ones(len(rows), len(table), dtype=torch.bool, device=flat.device)
        for component in range(min(4, table.shape[1])):
            same &= rows[:, component, None] == table[:, component]
        row, candidate = same.nonzero(as_tuple=True)
        found = (rows[row] == table[candidate]).all(-1)
        # Backwards, so that the first of equal rows wins.
        ids[start + row[found].flip(0)] = candidate[found].flip(0)
    return ids.view(inputs_embeds.shape[:2])
