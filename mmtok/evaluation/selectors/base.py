"""What a pruning method sees of one crop, what it returns, and the class that every method derives from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

Need = Literal["cls_attention", "language_attention"]


@dataclass(frozen=True)
class CropView:
    """What a selector may look at of one crop: n vision tokens, and the m text tokens of the question to cover.

    Attributes:
        text: (m, d) float, rows of the language model's `embed_tokens`; m may be 0.
        vision: (n, d) float, vision tokens behind the projector.
        raw_vision: (n, d_raw) float, the same tokens before the projector.
        row, column: (n,) int64, place of each token in the crop's grid of patches, -1 for no place.
        seed: what a random method draws from: the same for every method and budget of a question.
        cls_attention: (n,) float, attention that the vision tower's class token pays to each token, a mean over the
            heads of the layer whose features LLaVA reads. Only where the selector needs "cls_attention".
        keys: (n, d_key) float, keys of the same layer, a mean over the heads. Comes with `cls_attention`.
        language_attention: (n,) float, attention that the prompt's last token pays to each token in the language
            model's second layer, a mean over the heads. Only where the selector needs "language_attention".
    """

    text: torch.Tensor
    vision: torch.Tensor
    raw_vision: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    seed: int = 0
    cls_attention: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    language_attention: torch.Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """What a selector keeps of a crop.

    Attributes:
        indices: (k,) int64, positions of the kept tokens among the crop's tokens; no position twice.
        raw_vision: (k, d_raw), features before the projector that take the place of the kept tokens' own, in the order
            of `indices`; None where tokens are kept as they are.
    """

    indices: torch.Tensor
    raw_vision: torch.Tensor | None = None


class Selector(ABC):
    """A pruning method: one file, one overridden function."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def select(self, crop: CropView, budget: int) -> Kept:
        """Picks `budget` of the crop's tokens, or all of them where it has no more.

        Args:
            crop: what is known about the crop.
            budget: at least 1.
        """

    def select_together(self, crops: Sequence[CropView], budget: int) -> list[Kept]:
        """Picks tokens of all crops of an image; overridden by methods that give crops different numbers of tokens.

        Args:
            crops: those of one image.
            budget: mean number of tokens per crop, at least 1.
        """
        return [self.select(crop, budget) for crop in crops]


def required(values: torch.Tensor | None, name: Need, selector: Selector) -> torch.Tensor:
    """The values that a selector declared it needs.

    Raises:
        ValueError: the crop comes without them.
    """
    if values is None:
        raise ValueError(f"The selector {selector.name!r} needs {name}, which this crop comes without.")
    return values
