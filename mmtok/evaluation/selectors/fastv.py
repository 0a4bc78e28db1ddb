"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): the tokens that the language model attends to early."""

from __future__ import annotations

from .base import CropView, Kept, Selector, required


class FastV(Selector):
    """The tokens with the most attention of the prompt's last token in the language model's second layer.

    The original lets all tokens through the first two layers and drops the others behind them. Here they are dropped
    before the first, so that every method's answer is read from the same number of tokens; the attention still comes
    from the full prompt, whose cost is not saved.
    """

    name = "FastV"
    needs = frozenset({"language_attention"})

    def select(self, crop: CropView, budget: int) -> Kept:
        attention = required(crop.language_attention, "language_attention", self)
        return Kept(attention.topk(min(budget, len(attention))).indices)
