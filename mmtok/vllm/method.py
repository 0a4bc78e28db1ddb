"""All that the plugin asks of the method layer: the text to cover, where an image's tokens come from, the selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import torch
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from configuration_mmtok import PruningOptions
from mmtok.hub.image_tokens import ImageTokens
from mmtok.hub.llava_images import LlavaNextVisionMixin, LlavaVisionMixin
from mmtok.hub.question import TextRules
from mmtok.hub.selection import CoverageSettings, select_units
from mmtok.hub.units import units_of

# Options that say which tokens of a prompt are its question.
TEXT_OPTIONS = tuple(
    field.name for field in fields(TextRules) if field.name not in ("image_token_id", "special_token_ids")
)


def text_rules(config: Any, options: PruningOptions) -> TextRules:
    """What is known about the token ids of a prompt, from an MMTok configuration and options."""
    special: list[int] = []
    for each in (config, config.get_text_config()):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(each, name, None)
            special += [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    given = {name: getattr(options, name) for name in TEXT_OPTIONS}
    return TextRules(image_token_id=config.image_token_id, special_token_ids=special, **given)


class LlavaLayout(LlavaVisionMixin):
    """Where the tokens of a LLaVA-1.5 image come from, known without features or weights."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def tokens_per_crop(self) -> int:
        """Tokens of a crop in front of the projector."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return side * side + (self.config.vision_feature_select_strategy == "full")

    @property
    def largest_image(self) -> Sequence[int]:
        """(height, width) in pixels of an image of the most tokens."""
        return (self.config.vision_config.image_size,) * 2

    def crops(self, size: Sequence[int]) -> int:
        """Crops of an image of (height, width) pixels."""
        return 1

    def tokens(self, size: Sequence[int]) -> ImageTokens:
        """Where the tokens of an image of (height, width) pixels come from."""
        return self._image_tokens([range(self.tokens_per_crop)], torch.empty(1, self.tokens_per_crop, 0), {})[0]

    def candidates(self, pixels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(T,) bool on the CPU: tokens outside of the bands of padding of (crops, channels, h, w) pixels."""
        return self._candidates([self.tokens(size)], self._padding(pixels))[0]


class LlavaNextLayout(LlavaNextVisionMixin, LlavaLayout):
    """Where the tokens of a LLaVA-NeXT image come from, known without features or weights."""

    def pack_image_features(self, *args: Any, **kwargs: Any) -> Any:
        return LlavaNextModel.pack_image_features(SimpleNamespace(config=self.config), *args, **kwargs)

    @property
    def largest_image(self) -> Sequence[int]:
        return max(self.config.image_grid_pinpoints, key=lambda size: len(self.tokens(size).source))

    def crops(self, size: Sequence[int]) -> int:
        return self._crop_count(size)

    def candidates(self, pixels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        # As one row of a batch, which may have more crops than tokens of it stay: a thin strip loses all of its tiles.
        return super().candidates(pixels[None], size)

    def tokens(self, size: Sequence[int]) -> ImageTokens:
        return self._image_tokens([], torch.empty(1, self.tokens_per_crop, 0), {"image_sizes": [list(size)]})[0]


def kept_count(image: ImageTokens, candidates: torch.Tensor | None, options: dict[str, Any]) -> int:
    """How many vision tokens of an image stay; none of it depends on the features.

    Args:
        image: where its tokens come from.
        candidates: (T,) bool, tokens that may be kept; None for all.
        options: as in `PruningRequest`.
    """
    budget, total = options["vision_token_budget"], len(image.source)
    if budget is None:
        return total
    units = units_of([image], None if candidates is None else [candidates], budget, options["budget_scope"])
    picks, separators = sum(unit.picks for unit in units), int((image.source < 0).sum())
    return picks + separators * (options["keep_image_newline"] or picks + separators == total)


def kept_flags(
    projected: Sequence[torch.Tensor],
    raw: Sequence[torch.Tensor],
    images: Sequence[ImageTokens],
    candidates: Sequence[torch.Tensor] | None,
    texts: Sequence[Sequence[int]],
    embed: Callable[[torch.Tensor], torch.Tensor],
    options: dict[str, Any],
) -> tuple[Sequence[torch.Tensor], list[int]]:
    """Selects the vision tokens of some images that share their options.

    Args:
        projected: for each image (T, d), its tokens behind the projector, with row separators.
        raw: for each image (crops, tokens, d_raw), its features before the projector.
        images: for each image where its T tokens come from.
        candidates: for each image (T,) bool, tokens that may be kept; None for all.
        texts: for each image the token ids of the text to cover.
        embed: (n,) ids -> (n, d) embeddings.
        options: as in `PruningRequest`.

    Returns:
        For each image (T,) bool on the features' device, and how many stay.
    """
    device, longest = projected[0].device, max(map(len, texts))
    mask = torch.arange(longest) < torch.tensor([len(text) for text in texts])[:, None]
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    ids[mask] = torch.tensor([each for text in texts for each in text], dtype=torch.long)
    rows = embed(ids.flatten().to(device)) if longest else projected[0].new_zeros(0, projected[0].shape[-1])
    settings = {field.name: options[field.name] for field in fields(CoverageSettings)}
    selection = select_units(
        projected,
        torch.cat([each.flatten(0, 1) for each in raw]),
        images,
        rows.view(len(texts), longest, -1) if longest else rows.view(len(texts), 0, rows.shape[-1]),
        mask,
        candidates,
        CoverageSettings(**settings),
    )
    kept = selection.kept(options["keep_image_newline"])
    return kept.flags.split([len(each) for each in projected]), kept.counts
