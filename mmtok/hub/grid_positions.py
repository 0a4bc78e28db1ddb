"""Positions of tokens in time, height and width (M-RoPE), for language models that number an image's grid.

An image takes as many positions as the longer side of its grid has tokens. Kept tokens keep the positions that they
have in the full prompt, and the tokens behind the prompt go on where those of the full prompt would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .devices import sent
from .image_tokens import ImageTokens
from .packing import PackedOrder
from .prompt import Prompt


@dataclass(frozen=True)
class GridPositions:
    """The positions of a prompt; B rows, L tokens or slots.

    Attributes:
        places: (3, B, L) int64, time, height and width; any value at padding.
        following: (B, 1) int64, the position of the first token behind the prompt, the same in all three.
        tokens: (B, 1) int64, tokens of the row without padding: the place of that token in a text.
    """

    places: torch.Tensor
    following: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, prompt: Prompt, layouts: Sequence[ImageTokens]) -> GridPositions:
        """Numbers a full prompt as the stock models do, on the CPU.

        Args:
            prompt: the prompt.
            layouts: of its images, one crop each.
        """
        rows = prompt.rows_of_images([len(layout.source) for layout in layouts])
        real = (prompt.mask_on_host != 0) | prompt.image_mask
        places = torch.zeros(3, *real.shape, dtype=torch.long)
        following = []
        for row, own in enumerate(real):
            images = [layout for owner, layout in zip(rows, layouts, strict=True) if owner == row]
            numbers, end = _numbered(prompt.image_mask[row, own], images)
            places[:, row, own] = numbers
            following.append(end)
        return cls(places, torch.tensor(following)[:, None], real.sum(1, keepdim=True))

    @classmethod
    def given(cls, position_ids: torch.Tensor, prompt: Prompt) -> GridPositions:
        """The positions that a caller gave, (B, L), (1, L) or (3, B, L)."""
        real = (prompt.mask_on_host != 0) | prompt.image_mask
        places = position_ids.cpu().expand(3, *real.shape)
        following = places.masked_fill(~real, -1).amax((0, 2)) + 1
        return cls(places, following[:, None], real.sum(1, keepdim=True))

    def packed(self, order: PackedOrder, dropped: torch.Tensor, device: torch.device) -> GridPositions:
        """The positions of the slots of a pruned prompt.

        Args:
            order: where the slots come from.
            dropped: (B, 1) int64 on the CPU, tokens that each row loses.
            device: of the pruned prompt, and of the result.
        """
        places = sent(self.places, device).gather(2, order.index.to(device).expand(3, -1, -1))
        return GridPositions(places, sent(self.following, device), sent(self.tokens - dropped, device))

    def columns(self, start: int, rows: int, width: int) -> torch.Tensor:
        """(3, rows, width) positions of the columns from `start` on; `rows` is a multiple of B (beams)."""
        length = self.places.shape[2]
        behind = torch.arange(max(start, length), max(start + width, length), device=self.places.device) - length
        own = self.places[:, :, start : start + width]
        positions = torch.cat((own, (self.following + behind).expand(3, -1, -1)), dim=2)
        return positions.repeat_interleave(rows // positions.shape[1], dim=1)

    def behind(self, text: torch.Tensor) -> torch.Tensor:
        """(R, n) places in the text, of tokens behind the prompt -> (3, R, n); R is a multiple of B (beams)."""
        offset = (self.following - self.tokens).to(text.device)
        return (text + offset.repeat_interleave(len(text) // len(offset), dim=0)).expand(3, -1, -1)


def _numbered(image: torch.Tensor, layouts: Sequence[ImageTokens]) -> tuple[torch.Tensor, int]:
    """(3, n) positions of a row without padding, and the one behind it.

    Args:
        image: (n,) bool, vision tokens.
        layouts: of the row's images.
    """
    places = image.nonzero()[:, 0]
    pieces: list[torch.Tensor] = []
    done = position = 0

    def text(end: int) -> None:
        nonlocal done, position
        pieces.append(torch.arange(position, position + end - done).expand(3, -1))
        done, position = end, position + end - done

    for layout in layouts:
        text(int(places[0]))
        pieces.append(torch.stack((torch.zeros_like(layout.row), layout.row, layout.column)) + position)
        places = places[len(layout.source) :]
        done += len(layout.source)
        position += int(max(layout.row.max(), layout.column.max())) + 1
    text(len(image))
    return torch.cat(pieces, dim=1), position
