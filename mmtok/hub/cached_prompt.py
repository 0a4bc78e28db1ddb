"""Continuing from a cache that holds a pruned prompt, when the caller counts the full one.

The record of what was dropped travels on the cache, because a model keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .grid_positions import GridPositions
from .host import cached_keys, cached_length, given_cache
from .packing import PackedOrder
from .pruned_prompt import PrunedPrompt

# Attribute of a cache that holds the record.
CACHED_PROMPT = "mmtok_prompt"


@dataclass(frozen=True)
class CachedPrompt:
    """A pruned prompt whose keys and values lie in a cache; B rows, L tokens of which L' slots were read.

    Attributes:
        input_ids: (B, L') ids of the slots, or None for a prompt that was given as embeddings alone.
        attention_mask: (B, L') or None.
        order: where the slots come from.
        dropped_vision: (B, L) bool, vision tokens of the prompt that were not read.
        fingerprint: (B, L') one component of the slots' first keys; None for a cache that does not show them.
        positions: of the slots, where they are positions in a grid, which tokens keep that follow dropped ones.
    """

    input_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    order: PackedOrder
    dropped_vision: torch.Tensor
    fingerprint: torch.Tensor | None
    positions: GridPositions | None

    @staticmethod
    def attach(cache: Any, pruned: PrunedPrompt) -> None:
        """Leaves on a cache the record of the prompt that fills it."""
        if hasattr(cache, "get_seq_length"):
            record = CachedPrompt(
                pruned.input_ids,
                pruned.attention_mask,
                pruned.order,
                pruned.dropped_vision,
                _fingerprint(cache, pruned.length),
                pruned.positions,
            )
            setattr(cache, CACHED_PROMPT, record)

    @contextmanager
    def detached(self, cache: Any) -> Iterator[None]:
        """Takes the record off a cache while stock generation runs with arguments that are shortened already."""
        delattr(cache, CACHED_PROMPT)
        try:
            yield
        finally:
            setattr(cache, CACHED_PROMPT, self)

    @staticmethod
    def of(cache: Any) -> CachedPrompt | None:
        """The record on a cache, None where there is none or the cache was emptied since."""
        found = getattr(cache, CACHED_PROMPT, None)
        return found if found is not None and cached_length(cache) > 0 else None

    @property
    def length(self) -> int:
        """L"""
        return self.dropped_vision.shape[1]

    @property
    def dropped(self) -> int:
        """By how much the slots are fewer than the tokens of the prompt."""
        return self.length - self.order.index.shape[1]

    def require_intact(self, cache: Any) -> None:
        """Raises a ValueError unless the cache still begins with the pruned prompt, row by row.

        Cropping a cache into the prompt and reordering or repeating its rows leave a record that does not fit any more.
        """
        slots = self.order.index.shape[1]
        now = _fingerprint(cache, slots) if cached_length(cache) >= slots else None
        if self.fingerprint is not None and (now is None or not torch.equal(now, self.fingerprint.to(now.device))):
            raise ValueError(
                f"The cache held a pruned prompt of {self.length} tokens in {slots} slots and was cropped or reordered "
                f"since, it now holds {cached_length(cache)}: give the whole prompt with its images, and no cache."
            )

    def shortened(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The token arguments of a call that repeats the prompt and continues it, without the dropped tokens.

        Args:
            inputs: `input_ids` (B, more than L), `inputs_embeds` (B, more than L, hidden) or both, and, where they are
                given, `attention_mask` and `position_ids`.

        Raises:
            ValueError: the cache holds another prompt.
        """
        self.require_intact(given_cache(inputs))
        given = {name: inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None}
        for name, values in given.items():
            if not self._begins(values):
                raise ValueError(
                    f"The cache holds a pruned prompt of {self.length} tokens, and {name} of shape "
                    f"{tuple(values.shape)} do not begin with it: continue from the returned sequences, or start with "
                    "an empty cache."
                )
        shorter = {name: self._without_dropped(values) for name, values in given.items()}
        if self.input_ids is not None and "input_ids" in shorter:
            shorter["input_ids"][:, : self.input_ids.shape[1]] = self.input_ids
        like = next(iter(shorter.values()))
        mask = self.mask(inputs.get("attention_mask"), like)
        if mask is not None:
            shorter["attention_mask"] = mask
        positions = inputs.get("position_ids")
        if positions is not None and self.positions is not None:
            raise ValueError(
                "position_ids were given with a cache that holds a pruned prompt, which knows its positions in the "
                "grids of the images: leave them out."
            )
        if positions is not None:
            shorter["position_ids"] = self._without_dropped(self._renumbered(positions))
        return shorter

    def mask(self, attention_mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
        """(B, L + n) mask of the caller, or None -> (B, L' + n) for the cached slots and what follows them.

        Args:
            attention_mask: the caller's.
            like: (B, L' + n, ...), of the length that is wanted.
        """
        slots = self.order.valid.to(like.device)
        if attention_mask is not None:
            shorter = self._without_dropped(attention_mask)
            return torch.cat((shorter[:, : slots.shape[1]] * slots, shorter[:, slots.shape[1] :]), dim=1)
        if self.attention_mask is None:
            return None
        own = self.attention_mask.to(like.device)
        return torch.cat((own, own.new_ones(like.shape[0], like.shape[1] - own.shape[1])), dim=1)

    def step(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `forward` for new tokens alone, whose mask and positions count the full prompt."""
        self.require_intact(given_cache(inputs))
        new = inputs.get("input_ids", inputs.get("inputs_embeds"))
        cached = cached_length(given_cache(inputs))
        if self.positions is not None and new is not None and inputs.get("position_ids") is None:
            inputs = {**inputs, "position_ids": self.positions.columns(cached, *new.shape[:2])}
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if new is None or len(new) != len(self.dropped_vision) or (mask is not None and mask.dim() != 2):
            return inputs
        if mask is not None and mask.shape[1] == cached + new.shape[1]:
            return inputs
        if mask is not None and mask.shape[1] != cached + self.dropped + new.shape[1]:
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}, but the cache stands for {cached + self.dropped} "
                f"tokens of the prompt and {new.shape[1]} are new: give one value for each of them."
            )
        like = self.dropped_vision.new_zeros(len(new), cached + new.shape[1]).to(new.device)
        changed = {**inputs, "attention_mask": self.mask(mask, like)}
        if positions is not None and self.positions is None:
            changed["position_ids"] = self._renumbered(positions, only_new=True)
        return {name: value for name, value in changed.items() if value is not None}

    def _begins(self, prompt: torch.Tensor) -> bool:
        """Whether the ids begin with the cached prompt; of embeddings, or without its ids, only whether they can."""
        if prompt.shape[0] != self.dropped_vision.shape[0] or prompt.shape[1] <= self.length:
            return False
        if self.input_ids is None or prompt.dim() != 2:
            return True
        slots = self.order.gather(prompt[:, : self.length])
        same = (slots == self.input_ids.to(slots.device)) | ~self.order.valid.to(slots.device)
        return bool(same.all())

    def _without_dropped(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.order.gather(values[:, : self.length]), values[:, self.length :]), dim=1)

    def _renumbered(self, positions: torch.Tensor, *, only_new: bool = False) -> torch.Tensor:
        dropped = self.dropped_vision.to(positions.device).cumsum(1)
        behind = dropped[:, -1:]
        if only_new:
            return positions - behind
        rest = behind.expand(-1, positions.shape[1] - self.length)
        return (positions - torch.cat((dropped, rest), dim=1)).clamp_min(0)


def _fingerprint(cache: Any, slots: int) -> torch.Tensor | None:
    """(B, slots) one component of each key of the prompt, in the first layer and head."""
    keys = cached_keys(cache)
    return None if keys is None else keys[:, 0, :slots, 0].detach().clone()
