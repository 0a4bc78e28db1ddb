"""Positions of tokens in time, height and width (M-RoPE), for language models that number an image's grid.

Stock counts them for the full prompt. Kept tokens keep theirs, and the tokens behind the prompt go on where those of
the full prompt would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .devices import sent
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
    def of(cls, position_ids: torch.Tensor, prompt: Prompt) -> GridPositions:
        """The positions of a full prompt.

        Args:
            position_ids: (B, L), (1, L) or (3, B, L), those of stock or of the caller.
            prompt: the prompt.
        """
        real = (prompt.mask_on_host != 0) | prompt.image_mask
        places = position_ids.cpu().expand(3, *real.shape)
        # Generation goes on behind the last token, which may lie in front of the last frame of a long video.
        last = torch.where(real, torch.arange(real.shape[1]), 0).amax(1)
        following = places.gather(2, last[None, :, None].expand(3, -1, -1)).amax(0) + 1
        return cls(places, following, real.sum(1, keepdim=True))

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

    def behind_columns(self, columns: torch.Tensor, rows: int) -> torch.Tensor:
        """(n,) columns behind the prompt -> (3, rows, n); no value is read back from the device."""
        following = self.following.to(columns.device).repeat_interleave(rows // len(self.following), dim=0)
        return (following + columns - self.places.shape[2]).expand(3, -1, -1)

    def behind(self, text: torch.Tensor) -> torch.Tensor:
        """(R, n) places in the text, of tokens behind the prompt -> (3, R, n); R is a multiple of B (beams)."""
        offset = (self.following - self.tokens).to(text.device)
        return (text + offset.repeat_interleave(len(text) // len(offset), dim=0)).expand(3, -1, -1)
