"""LLaVA-1.5 and LLaVA-NeXT that read only the vision tokens which cover the question and the image.

Modifications of transformers' models: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Weights, their names and everything behind
the prompt are `LlavaForConditionalGeneration`'s and `LlavaNextForConditionalGeneration`'s own.

This is the family to read first: what a family has to say of its images, and nothing else. The rest of the work is in
`mmtok.hub.pruned_model`, or beside this file in a published repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from transformers import GenerationMixin, LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, image_size_to_num_patches

from mmtok.hub.images import (
    EncodedVision,
    Geometry,
    Layout,
    by_image,
    candidates_outside,
    checked_sizes,
    encode,
    require_crops,
    require_pixels,
)
from mmtok.hub.options import PruningOptions
from mmtok.hub.pruned_model import FIXED_GRID_TOWERS, PrunedModel
from mmtok.hub.releases import projected_features
from mmtok.hub.selection import Selection


class MMTokLlavaForConditionalGeneration(PrunedModel, LlavaForConditionalGeneration, GenerationMixin):
    """`LlavaForConditionalGeneration` that prunes vision tokens as its configuration says."""

    own_options: ClassVar = {"padding": ("exclude", "include")}
    towers = FIXED_GRID_TOWERS

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One crop an image.

        Args:
            inputs: `pixel_values` (images, channels, height, width) and further arguments of `get_image_features`.

        Raises:
            ValueError: pixels that are not images, NaN or infinite.
        """
        pixels, geometry = inputs["pixel_values"], self.geometry
        require_pixels(pixels, ("images, channels, height, width",))
        bands = geometry.bands(pixels).split(1) if options.padding == "exclude" else None
        outputs, raw, _ = encode(self, self.model.multi_modal_projector, inputs)
        projected = projected_features(outputs)
        layouts = [geometry.crop_layout(len(tokens)) for tokens in projected]
        raws = raw.flatten(0, -2).split([len(tokens) for tokens in projected])
        candidates = None if bands is None else list(map(candidates_outside, layouts, bands))
        return EncodedVision(projected, raws, layouts, candidates, outputs=outputs)


class LlavaNextGeometry(Geometry):
    """A LLaVA-NeXT image: the whole image and its tiles, unpadded, with row separators."""

    # Reads nothing of its model but the configuration.
    pack_image_features = LlavaNextModel.pack_image_features

    @property
    def largest_image(self) -> Sequence[int]:
        return max(self.config.image_grid_pinpoints, key=lambda size: len(self.layout(size).source))

    @property
    def examples(self) -> Mapping[str, Sequence[int]]:
        sizes = {self.crops(size): size for size in self.config.image_grid_pinpoints}
        return {f"{count} crops": sizes[count] for count in sorted(sizes)}

    @property
    def about(self) -> str:
        return (
            f"One crop is {self.tokens_per_crop} vision tokens. An image is "
            f"{', '.join(example.removesuffix(' crops') for example in self.examples)} crops by its shape: itself and "
            "its tiles.\nThe tiles of an image that does not fill them have fewer tokens; the figures are the most "
            "there can be."
        )

    @staticmethod
    def require_supported(config: Mapping[str, Any]) -> None:
        """Raises a ValueError for crops that are not grids."""
        tower, strategy = config["vision_config"].get("model_type"), config.get("vision_feature_select_strategy")
        if (tower, strategy) == ("clip_vision_model", "full"):
            raise ValueError(
                "vision_feature_select_strategy 'full' in config.json: tiles are grids, and CLIP's class token is no "
                "part of one. Write 'default'."
            )

    def crops(self, size: Sequence[int], tiled: bool = True) -> int:
        side = self.config.vision_config.image_size
        return image_size_to_num_patches(list(size), self.config.image_grid_pinpoints, side) if tiled else 1

    def layout(self, size: Sequence[int], tiled: bool = True) -> Layout:
        return self.layouts([size], self.tokens_per_crop, self.config.vision_feature_select_strategy)[0]

    def layouts(self, sizes: Sequence[Sequence[int]], tokens: int, strategy: str) -> list[Layout]:
        """Where the tokens of images of (height, width) come from, with so many in a crop in front of the projector.

        `strategy` is the `vision_feature_select_strategy`.
        """
        # Packs token numbers exactly as stock packs the features.
        numbers = [torch.arange(self.crops(size) * tokens).reshape(-1, tokens, 1) for size in sizes]
        packed, _ = self.pack_image_features(
            numbers, [list(size) for size in sizes], vision_feature_select_strategy=strategy,
            image_newline=torch.tensor([-1]),
        )  # fmt: skip
        return [self.crop_layout(tokens, len(each), own.flatten()) for own, each in zip(packed, numbers, strict=True)]


class MMTokLlavaNextForConditionalGeneration(PrunedModel, LlavaNextForConditionalGeneration, GenerationMixin):
    """`LlavaNextForConditionalGeneration` that prunes vision tokens, crop by crop, as its configuration says."""

    geometry_class = LlavaNextGeometry
    geometry: LlavaNextGeometry
    own_options: ClassVar = {"padding": ("exclude", "include")}
    towers = FIXED_GRID_TOWERS
    # From 2 tokens a crop on, see docs/reports/quality.md.
    recommended_options: ClassVar = {"budget_scope": "image"}

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """The whole image and up to four tiles, unpadded, with row separators.

        Args:
            inputs: `pixel_values` (crops, channels, height, width) or (images, crops, channels, height, width),
                `image_sizes` (images, 2) and further arguments of `get_image_features`.

        Raises:
            ValueError: pixels that are not images, NaN or infinite; sizes that do not belong to them.
        """
        pixels, geometry = inputs["pixel_values"], self.geometry
        require_pixels(pixels, ("crops, channels, height, width", "images, crops, channels, height, width"))
        # Read here, so that nothing waits for the vision tower later.
        sizes = checked_sizes(inputs.get("image_sizes"))
        crops = [geometry.crops(size) for size in sizes]
        require_crops(pixels, crops)
        bands = by_image(geometry.bands(pixels), crops) if options.padding == "exclude" else None
        outputs, raw, every = encode(
            self, self.model.multi_modal_projector, {**inputs, "image_sizes": torch.tensor(sizes)}
        )
        tokens = raw.shape[1]
        lengths = [count * tokens for count in crops]
        raws = raw.flatten(0, -2).split(lengths)
        strategy = inputs.get("vision_feature_select_strategy") or self.config.vision_feature_select_strategy
        layouts = geometry.layouts(sizes, tokens, strategy)
        # Before padding is removed and row separators are set.
        whole = [geometry.crop_layout(tokens, count) for count in crops]
        candidates = None if bands is None else list(map(candidates_outside, layouts, bands))
        before = EncodedVision(every.flatten(0, -2).split(lengths), raws, whole)
        return EncodedVision(projected_features(outputs), raws, layouts, candidates, before, outputs)

    def selected_from(self, encoded: EncodedVision, options: PruningOptions) -> EncodedVision:
        """With `padding` "include", the paper's selection: all tokens of all crops.

        A budget that keeps every token leaves nothing to select: the prompt is then the stock model's.
        """
        whole = encoded.before_unpadding
        if options.padding != "include" or whole is None or not len(whole):
            return encoded
        tokens_of_a_crop = int((whole.layouts[0].crop == 0).sum())
        return whole if options.budget_of(tokens_of_a_crop) < tokens_of_a_crop else encoded

    def placed(
        self, encoded: EncodedVision, selected_from: EncodedVision, kept: Selection
    ) -> tuple[EncodedVision, Selection]:
        """Moves what was kept of all tokens of all crops to the front of the places that the prompt has for its image.

        The stock prompt has no place for the tokens of padding. The others are dropped, and the language model numbers
        its positions again, so that it reads the same. Nothing is read back from the device.

        Raises:
            ValueError: more kept tokens of an image than its places.
        """
        if selected_from is encoded:
            return encoded, kept
        projected, flags = [], []
        for features, own, places, count in zip(
            selected_from.projected, kept.flags.split(selected_from.lengths), encoded.lengths, kept.counts, strict=True
        ):
            if count > places:
                raise ValueError(
                    f"{count} tokens of an image are kept before padding is removed, but its prompt has {places} "
                    "places: lower vision_token_budget, or set padding to 'stock'."
                )
            # Equal flags keep their order. A prompt with row separators can have more places than its crops tokens.
            order = own.to(torch.uint8).sort(stable=True, descending=True).indices
            filler = order.new_zeros(max(places - len(order), 0))
            order = torch.cat((order, filler))[:places]
            projected.append(features[order.to(features.device)])
            flags.append(torch.arange(places) < count)
        return replace(encoded, projected=projected), Selection(torch.cat(flags).to(kept.flags.device), kept.counts)
