"""The steps of every call on a batch: check the arguments, read the prompt, encode, select, pack.

What is said of images holds for the videos of the families that read them; each frame of a video is a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from .arguments import call_options, require_known, require_meaningful, taken
from .devices import sent
from .host import given_cache
from .images import EncodedVision
from .options import PruningOptions
from .paper_selection import in_first_places, selects_before_unpadding
from .prompt import GridPositions, Prompt, PrunedPrompt
from .question import Question
from .selection import Selection, select
from .tokenizer_source import TokenizerSource, source_of, special_ids


class PruningSteps:
    """What `generate`, `forward` and `select_vision_tokens` of a model do with a prompt and its images.

    A family names its image arguments and supplies `encode`. Nothing is kept on the model between calls.
    """

    # Arguments that belong to the images; the first is the pixels.
    image_arguments: tuple[str, ...] = (
        "pixel_values",
        "image_sizes",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    )
    # The same for videos; empty where videos are not pruned.
    video_arguments: tuple[str, ...] = ()
    # Options that mean nothing for the family: only False and None are taken.
    refused_options: tuple[str, ...] = ()
    # Positions of a token: 1, or 3 for time, height and width, which a kept token keeps.
    position_axes: int = 1
    # (model, prompt, layouts) -> (3, B, L) positions of the full prompt, where a token has three.
    count_positions: Callable[..., torch.Tensor]
    # (model, image arguments, padding=whether to find the tokens of padding) -> EncodedVision.
    encode: Callable[..., EncodedVision]
    # (model, video arguments) -> EncodedVision.
    encode_videos: Callable[..., EncodedVision]
    config: Any
    get_input_embeddings: Callable[[], torch.nn.Module]

    @torch.no_grad()
    def encode_images(self, **image_inputs: Any) -> EncodedVision:
        """Encodes images and videos once, for several calls with `encoded_images`.

        Args:
            **image_inputs: the image and video arguments of `forward`, `pixel_values` or `pixel_values_videos` among
                them.

        Returns:
            `EncodedVision`, one item for each image and then for each video; `encoded[[0, 0]]` is one image for two
            prompts of a batch.

        Raises:
            ValueError: an argument that belongs to no image, or pixels that are no images.
        """
        require_known(image_inputs, set(self.visual_arguments))
        if not self._has_images(image_inputs):
            raise ValueError(f"{self.image_arguments[0]} is missing: give the processor's pixels.")
        return self._encode(taken(image_inputs, self.visual_arguments), padding=True)

    @property
    def visual_arguments(self) -> tuple[str, ...]:
        """The arguments that belong to images and videos."""
        return (*self.image_arguments, *self.video_arguments)

    def _options(self, arguments: dict[str, Any], *generation_configs: Any) -> PruningOptions:
        options = call_options(arguments, self.config, *generation_configs)
        require_meaningful(options, self.refused_options, type(self).__name__)
        return options

    def _has_images(self, arguments: Mapping[str, Any]) -> bool:
        """Whether there are pixels of images, or of videos that can be pruned."""
        pixels = [arguments.get(names[0]) for names in (self.image_arguments, self.video_arguments) if names]
        return any(each is not None and (not hasattr(each, "__len__") or len(each) > 0) for each in pixels)

    def _has_videos(self, arguments: Mapping[str, Any], encoded: Any) -> bool:
        """Whether there are videos that can be pruned, encoded or not."""
        if isinstance(encoded, EncodedVision):
            return any(encoded.videos)
        pixels = arguments.get(self.video_arguments[0]) if self.video_arguments else None
        return pixels is not None and (not hasattr(pixels, "__len__") or len(pixels) > 0)

    def _refuse_videos(self, arguments: Mapping[str, Any], options: PruningOptions) -> None:
        """Raises a ValueError for videos that should be pruned and cannot be."""
        if options.prunes and not self.video_arguments and arguments.get("pixel_values_videos") is not None:
            raise ValueError(
                "pixel_values_videos holds a video, and only images can be pruned: give the frames as images, or turn "
                "pruning off with vision_token_budget=None."
            )

    def _refuse_encoder_outputs(self, arguments: Mapping[str, Any], options: PruningOptions) -> None:
        """Raises a ValueError for images and videos that stock has encoded and that should be pruned."""
        given = arguments.get("mm_encoder_outputs") or {}
        for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            if options.prunes and given.get(kind) is not None:
                raise ValueError(
                    f"mm_encoder_outputs holds encoded {kind}s, which cannot be pruned: give {pixels}, or "
                    "encoded_images from encode_images, or turn pruning off with vision_token_budget=None."
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
        *,
        videos: bool = False,
    ) -> Prompt:
        """Checks a prompt and finds its vision tokens; further arguments and errors as `Prompt.read`.

        Args:
            input_ids, inputs_embeds, attention_mask: of the caller.
            videos: whether there are videos; without them the token that stands for them is text, as in stock.
        """
        video_token = self.config.video_token_id if videos else None
        embed = self.get_input_embeddings()
        return Prompt.read(input_ids, inputs_embeds, attention_mask, self.config.image_token_id, embed, video_token)

    def _encode(self, images: Mapping[str, Any], *, padding: bool) -> EncodedVision:
        """The images and then the videos of these arguments."""
        parts = []
        for names, encode in (
            (self.image_arguments, partial(type(self).encode, padding=padding)),
            (self.video_arguments, getattr(type(self), "encode_videos", None)),
        ):
            own = {name: images[name] for name in names if name in images}
            if encode is not None and names and self._has_images({names[0]: own.get(names[0])}):
                parts.append(encode(self, own))
        return parts[0] if len(parts) == 1 else EncodedVision.joined(*parts)

    def _encoded(
        self, prompt: Prompt, encoded: EncodedVision | None, images: dict[str, Any], options: PruningOptions
    ) -> EncodedVision:
        """The images that a caller encoded before, or else those of the image arguments, in the prompt's order."""
        if encoded is None:
            encoded = self._encode(images, padding=options.exclude_padding)
        elif images:
            raise ValueError(f"encoded_images and {next(iter(images))} were both given: give one of them.")
        elif not isinstance(encoded, EncodedVision):
            raise ValueError(f"encoded_images is a {type(encoded).__name__}: give what encode_images returned.")
        return encoded.ordered(prompt.order_of(encoded.lengths, encoded.videos))

    def prune_prompt(
        self,
        prompt: Prompt,
        encoded: EncodedVision | None,
        images: dict[str, Any],
        options: PruningOptions,
        position_ids: torch.Tensor | None = None,
    ) -> PrunedPrompt:
        """The prompt with the vision tokens that the options keep.

        Args:
            prompt: the full prompt.
            encoded: its images, or None.
            images: image arguments, where `encoded` is None.
            options: of the pruning.
            position_ids: that the caller gave.
        """
        prompt.require_one_value_a_token("position_ids", position_ids, axes=self.position_axes)
        # The question is read before the images are encoded: from then on nothing waits for the vision tower.
        text = self.question_embeddings(self.questions(prompt, options), prompt.device)
        encoded = self._encoded(prompt, encoded, images, options)
        kept_vision, _ = self._select(prompt, encoded, options, text)
        if not selects_before_unpadding(encoded, options):
            return self.pack_prompt(prompt, encoded, kept_vision, position_ids)
        placed, kept_vision = in_first_places(encoded, kept_vision)
        return replace(self.pack_prompt(prompt, placed, kept_vision), encoded=encoded)

    def pack_prompt(
        self,
        prompt: Prompt,
        encoded: EncodedVision,
        kept_vision: Selection,
        position_ids: torch.Tensor | None = None,
    ) -> PrunedPrompt:
        """The prompt without the vision tokens that were not kept, whoever chose them."""
        pruned = PrunedPrompt.of(prompt, encoded, kept_vision, self.get_input_embeddings(), self._filler_id())
        if self.position_axes == 1:
            return pruned
        if position_ids is None:
            position_ids = type(self).count_positions(self, prompt, encoded.layouts)
        positions = GridPositions.of(position_ids, prompt)
        dropped = prompt.lengths - torch.tensor(pruned.lengths)[:, None]
        return replace(pruned, positions=positions.packed(pruned.order, dropped, prompt.device))

    def _select(
        self,
        prompt: Prompt,
        encoded: EncodedVision,
        options: PruningOptions,
        text: tuple[torch.Tensor, torch.Tensor],
        *,
        explain: bool = False,
    ) -> tuple[Selection, list[int]]:
        """Returns the picks, and the batch row of each image."""
        embeddings, text_mask = text
        rows = prompt.rows_of_images(encoded.lengths)
        owners = torch.tensor(rows, dtype=torch.long)
        own = embeddings[sent(owners, embeddings.device)]
        readable = prompt.readable(encoded.lengths)
        if selects_before_unpadding(encoded, options) and encoded.before_unpadding is not None:
            if readable is not None:
                raise ValueError(
                    "attention_mask hides vision tokens, and select_before_unpadding moves tokens within their image: "
                    "turn select_before_unpadding off."
                )
            encoded = encoded.before_unpadding
        return select(encoded, own, text_mask[owners], options, readable=readable, explain=explain), rows

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
        if reader is None:
            # Vectors that are in no row of the table, such as those of soft prompts, have the first id behind it.
            special = {*objects, *special_ids(self.config), self.config.get_text_config().vocab_size}
        found = []
        # One token stands for a whole run of vision tokens, so that the work grows with the text alone.
        repeated = torch.nn.functional.pad(prompt.image_mask[:, 1:] & prompt.image_mask[:, :-1], (1, 0))
        for ids, own in zip(self._prompt_ids(prompt), prompt.mask_on_host.bool() & ~repeated, strict=True):
            row = ids[own].tolist()
            if reader is not None:
                found.append(reader.read(row))
            else:
                found.append(Question((), tuple(index for index in row if index not in special)))
        return found

    def _prompt_ids(self, prompt: Prompt) -> torch.Tensor:
        """(B, L) token ids on the CPU, those that the prompt's embeddings were looked up with where it has no ids."""
        if prompt.ids_on_host is not None:
            return prompt.ids_on_host
        assert prompt.inputs_embeds is not None, "Prompt.read lets no prompt pass that has neither"
        table = self.get_input_embeddings()(
            torch.arange(self.config.get_text_config().vocab_size, device=prompt.device)
        )
        return ids_of_embeddings(prompt.inputs_embeds.detach(), table.detach()).cpu()

    def question_embeddings(
        self, questions: Sequence[Question], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, hidden) embeddings of the words to cover and (B, M) bool on the CPU, False for fillers."""
        width = max((len(each.ids) for each in questions), default=0)
        ids = torch.tensor([[*each.ids, *[0] * (width - len(each.ids))] for each in questions], dtype=torch.long)
        valid = torch.arange(width) < torch.tensor([len(each.ids) for each in questions])[:, None]
        return self.get_input_embeddings()(sent(ids, device)), valid

    @property
    def tokenizer_source(self) -> TokenizerSource:
        """Where the tokenizer is that reads the questions: beside the weights, or what `mmtok.prune` was given."""
        own = vars(self).get("_tokenizer_source")
        return own or source_of(self.config._name_or_path, getattr(self.config, "_commit_hash", None))

    def _filler_id(self) -> int:
        """Token id for slots that nothing reads."""
        for config in (self.config, self.config.get_text_config()):
            if getattr(config, "pad_token_id", None) is not None:
                return config.pad_token_id
        return 0


def ids_of_embeddings(inputs_embeds: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The token ids that embeddings were looked up with.

    Args:
        inputs_embeds: (B, L, hidden).
        table: (V, hidden), the embeddings of all ids.

    Returns:
        (B, L) int64; V for vectors that are in no row of the table, such as those of vision tokens or soft prompts.
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
