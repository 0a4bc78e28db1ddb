"""What the plugin asks of the classes for transformers: the geometry of a family, counts, and the selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmtok.hub.families import family_of
from mmtok.hub.images import EncodedVision, Layout
from mmtok.hub.options import PruningOptions
from mmtok.hub.selection import crops_of, kept_separators, select


def pruned_class(config: Any) -> Any:
    """The class for transformers of the model that vLLM serves: it has the geometry and the refused options."""
    return family_of(config.model_type).load_class()


def geometry_of(config: Any) -> Any:
    """What is known of the images of a model, as the class for transformers has it."""
    return pruned_class(config).geometry_class(config)


def seconds_of(videos: Any, count: int) -> list[float | None]:
    """From one temporal patch of each video to the next; None where the family has no seconds."""
    given = videos.get("second_per_grid_ts")
    return [None] * count if given is None else list(map(float, given))


def kept_count(image: Layout, candidates: torch.Tensor | None, options: PruningOptions) -> int:
    """How many vision tokens of an image stay, of (T,) bool candidates or of all; none depends on the features."""
    if not options.prunes:
        return len(image.source)
    crops = crops_of([image], None if candidates is None else [candidates], options)
    picks = sum(crop.picks for crop in crops)
    return picks + int(kept_separators(image, picks).sum())


def kept_flags(
    encoded: EncodedVision,
    texts: Sequence[Sequence[int]],
    embed: Callable[[torch.Tensor], torch.Tensor],
    options: PruningOptions,
) -> tuple[Sequence[torch.Tensor], list[int]]:
    """Selects the vision tokens of some images that share their options.

    Args:
        encoded: the images.
        texts: for each image the token ids of the text to cover.
        embed: (n,) ids -> (n, d) embeddings.
        options: of all of them.

    Returns:
        For each image (T,) bool on the features' device, and how many stay.
    """
    first, longest = encoded.projected[0], max(map(len, texts))
    mask = torch.arange(longest) < torch.tensor([len(text) for text in texts])[:, None]
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    ids[mask] = torch.tensor([each for text in texts for each in text], dtype=torch.long)
    if longest:
        rows = embed(ids.flatten().to(first.device)).view(len(texts), longest, -1)
    else:
        rows = first.new_zeros(len(texts), 0, first.shape[-1])
    kept = select(encoded, rows, mask, options)
    return kept.flags.split(encoded.lengths), kept.counts
