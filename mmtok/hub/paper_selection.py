"""The paper's selection on LLaVA-NeXT: among all tokens of all crops, before the stock model removes padding.

The stock prompt has no place for the tokens of padding. What was kept moves into the first places of the image, in the
order of the crops; the others are dropped. The language model numbers its positions anew, so that it reads the same.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .images import EncodedVision
from .options import PruningOptions
from .selection import Selection


def selects_before_unpadding(encoded: EncodedVision, options: PruningOptions) -> bool:
    """Whether the tokens to select from are those of `encoded.before_unpadding`.

    A budget that keeps every token leaves nothing to select: the prompt is then the stock model's.
    """
    whole = encoded.before_unpadding
    if not options.select_before_unpadding or whole is None or not len(whole):
        return False
    tokens_of_a_crop = int((whole.layouts[0].crop == 0).sum())
    return options.budget_of(tokens_of_a_crop) < tokens_of_a_crop


def in_first_places(encoded: EncodedVision, kept: Selection) -> tuple[EncodedVision, Selection]:
    """Moves kept tokens into the first places that the prompt has for their image.

    Args:
        encoded: I images with `before_unpadding`.
        kept: of the tokens of `encoded.before_unpadding`, on any device.

    Returns:
        `encoded` with its `projected` tokens in the order in which the prompt is filled, and the places that are.
        Nothing is read back from the device.

    Raises:
        ValueError: more kept tokens of an image than its places.
    """
    whole = encoded.before_unpadding
    assert whole is not None, "the family has a form before unpadding"
    projected, flags = [], []
    for features, own, places, count in zip(
        whole.projected, kept.flags.split(whole.lengths), encoded.lengths, kept.counts, strict=True
    ):
        if count > places:
            raise ValueError(
                f"{count} tokens of an image are kept before padding is removed, but its prompt has {places} places: "
                "lower vision_token_budget, or turn select_before_unpadding off."
            )
        # Equal flags keep their order. Row separators make a prompt that has more places than the crops have tokens.
        order = own.to(torch.uint8).sort(stable=True, descending=True).indices
        filler = order.new_zeros(max(places - len(order), 0))
        order = torch.cat((order, filler))[:places]
        projected.append(features[order.to(features.device)])
        flags.append(torch.arange(places) < count)
    return replace(encoded, projected=projected), Selection(torch.cat(flags).to(kept.flags.device), kept.counts)
