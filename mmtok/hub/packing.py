"""How the dropped vision tokens leave a batch: the order of the tokens that stay, and the padding of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PackedOrder:
    """How the tokens of a (B, L) batch move to a shorter (B, L') batch, in their order.

    Attributes:
        index: (B, L') int64, the position that each slot is filled from, no position twice in a row.
        valid: (B, L') bool, False for slots that only fill the row: they hold some token that was not kept.
    """

    index: torch.Tensor
    valid: torch.Tensor

    @classmethod
    def of(cls, kept: torch.Tensor, *, left_padded: bool = False, length: int | None = None) -> PackedOrder:
        """Orders the batch so that kept tokens stand together, fillers in front (`left_padded`) or behind.

        Args:
            kept: (B, L) bool.
            left_padded: whether the kept tokens end, rather than begin, every row.
            length: L'; None for the largest number of kept tokens of a row.
        """
        if length is None:
            length = int(kept.sum(1).max()) if kept.numel() else 0
        # A stable sort of the flags is the whole packing: equal flags keep their order.
        order = torch.sort(kept.to(torch.uint8), dim=1, stable=True, descending=not left_padded).indices
        index = order[:, kept.shape[1] - length :] if left_padded else order[:, :length]
        return cls(index, kept.gather(1, index))

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """(B, L, ...) -> (B, L', ...)."""
        index = self.index.to(values.device)
        return values.gather(
            1, index.reshape(*index.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
        )

    def spread(self, values: torch.Tensor, length: int, where: torch.Tensor) -> torch.Tensor:
        """(B, L', ...) -> (B, length, ...): the way back, 0 where no slot of `where`, (B, L') bool, comes from."""
        index = self.index.to(values.device)
        shape = (*index.shape, *[1] * (values.dim() - 2))
        filled = values.masked_fill(~where.to(values.device).reshape(shape), 0)
        spread = values.new_zeros(values.shape[0], length, *values.shape[2:])
        return spread.scatter(1, index.reshape(shape).expand(-1, -1, *values.shape[2:]), filled)


def edge_padding(attention_mask: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Finds the padding that may leave a batch: the run of zeros in front of each row, or else behind it.

    Zeros inside a row stay where they are.

    Args:
        attention_mask: (B, L).

    Returns:
        (B, L) bool, True for edge padding; whether the batch is padded on the left.
    """
    masked = attention_mask == 0
    left = masked.cumprod(1).bool()
    right = masked.flip(1).cumprod(1).flip(1).bool()
    # A row of padding alone says nothing about the side.
    left_padded = bool((left[:, :1] & ~masked.all(1, keepdim=True)).any())
    return (left if left_padded else right), left_padded


def packed_length(lengths: Sequence[int], padding: torch.Tensor) -> int:
    """Columns of the packed batch: the longest row, and the columns of padding that all rows share.

    Args:
        lengths: for each row the number of tokens that stay.
        padding: (B, L) bool on the CPU, edge padding.
    """
    return max(lengths) + int(padding.sum(1).min())
