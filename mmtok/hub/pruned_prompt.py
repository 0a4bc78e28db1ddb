"""The way of a batch from the caller's prompt to the pruned one, and of the outputs back.

Which tokens stay is known to the device only; how many, and so every shape, to the host too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .deepstack import DeepStack
from .devices import sent
from .encoded_images import EncodedImages
from .grid_positions import GridPositions
from .image_tokens import KeptVision
from .packing import PackedOrder, edge_padding, packed_length
from .prompt import Prompt


@dataclass(frozen=True)
class PrunedPrompt:
    """The prompt without the dropped vision tokens; L' tokens, padded on the side on which the prompt was.

    Attributes:
        input_ids: (B, L') or None.
        inputs_embeds: (B, L', hidden), the vision tokens in their places.
        attention_mask: (B, L') or None.
        order: where the L' tokens come from.
        kept: (B, L) bool, tokens of the prompt that the language model reads.
        dropped_vision: (B, L) bool, vision tokens of the prompt that it does not.
        readable: (B, L') bool, slots that hold a token or padding of the prompt, and no dropped token.
        vision_slots: (B, L') bool, slots that hold a vision token.
        lengths: tokens of each row that stay; the host knows without reading `kept`.
        encoded: the images, before pruning.
        positions: of the slots, on the prompt's device; None where the language model numbers its tokens one by one.
        deepstack: of the slots; None for a family without such features.
    """

    input_ids: torch.Tensor | None
    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor | None
    order: PackedOrder
    kept: torch.Tensor
    dropped_vision: torch.Tensor
    readable: torch.Tensor
    vision_slots: torch.Tensor
    lengths: list[int]
    encoded: EncodedImages
    positions: GridPositions | None = None
    deepstack: DeepStack | None = None

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        encoded: EncodedImages,
        kept_vision: KeptVision,
        embed: Callable[[torch.Tensor], torch.Tensor],
        filler_id: int,
    ) -> PrunedPrompt:
        """Drops the vision tokens that were not kept.

        Args:
            prompt: the prompt.
            encoded: the images.
            kept_vision: those that stay.
            embed: token ids -> embeddings.
            filler_id: token id for slots that nothing reads.
        """
        device, kept = prompt.device, prompt.kept_mask(kept_vision)
        padding, left_padded = edge_padding(prompt.mask_on_host)
        # Where the caller's rows are equally long but the pruned ones aren't, generation has to find the ends aligned.
        left_padded |= not bool(padding.any())
        padding = padding & ~prompt.image_mask
        text = (~prompt.image_mask & ~padding).sum(1).tolist()
        rows = prompt.rows_of_images(encoded.lengths)
        lengths = [
            own + sum(count for owner, count in zip(rows, kept_vision.counts, strict=True) if owner == row)
            for row, own in enumerate(text)
        ]
        length = packed_length(lengths, padding)
        order = PackedOrder.of(kept, left_padded=left_padded, length=length)
        readable = order.valid | order.gather(sent(padding, device))

        pruned_mask = _packed_mask(prompt.attention_mask, order, device)
        if pruned_mask is None and min(lengths, default=length) < length:
            pruned_mask = order.valid.long()
        pruned_ids = None
        if prompt.input_ids is not None:
            pruned_ids = order.gather(prompt.input_ids).masked_fill(~readable, filler_id)
        embeds = order.gather(prompt.inputs_embeds) if prompt.inputs_embeds is not None else embed(pruned_ids)
        slots = (order.gather(sent(prompt.image_mask, device)) & order.valid).to(embeds.device)
        numbers = order.gather(sent(prompt.vision_numbers, device))
        features = torch.cat(list(encoded.projected))
        own_features = features[numbers.to(features.device)]
        embeds = torch.where(slots[..., None], own_features.to(embeds.device, embeds.dtype), embeds)
        dropped = sent(prompt.image_mask, device) & ~kept
        deepstack = None if encoded.deepstack is None else DeepStack.of(encoded.deepstack, numbers, slots)
        return cls(
            pruned_ids,
            embeds,
            pruned_mask,
            order,
            kept,
            dropped,
            readable,
            slots,
            lengths,
            encoded,
            deepstack=deepstack,
        )

    @property
    def length(self) -> int:
        return self.inputs_embeds.shape[1]

    @property
    def dropped(self) -> int:
        """By how much the batch is shorter than the caller's."""
        return self.kept.shape[1] - self.length

    def labels(self, labels: torch.Tensor) -> torch.Tensor:
        """(B, L) -> (B, L'): no loss on fillers."""
        packed = self.order.gather(labels)
        return packed.masked_fill(~self.order.valid.to(packed.device), -100)

    def per_token_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Further inputs with one value a token, for the shorter prompt.

        Given positions are numbered anew; those in a grid are as `positions` says.
        """
        shorter: dict[str, Any] = {}
        types: tuple[str, ...] = ("token_type_ids", "mm_token_type_ids")
        if self.positions is not None:
            # Stock would count positions from the types of the tokens and the grids of whole images.
            shorter |= {"position_ids": self.positions.places, "mm_token_type_ids": None}
            types = ("token_type_ids",)
        for name in types:
            if inputs.get(name) is not None:
                shorter[name] = self.order.gather(inputs[name])
        if self.positions is None and inputs.get("position_ids") is not None:
            dropped = self.dropped_vision.to(inputs["position_ids"].device).cumsum(1)
            positions = inputs["position_ids"].expand(dropped.shape) - dropped
            shorter["position_ids"] = self.order.gather(positions).clamp_min(0)
        if inputs.get("shift_labels") is not None:
            shorter["shift_labels"] = self._shift_labels(inputs["shift_labels"])
        if inputs.get("cache_position") is not None:
            shorter["cache_position"] = None
        return shorter

    def _shift_labels(self, shift_labels: torch.Tensor) -> torch.Tensor:
        """(B, L) -> (B, L') targets of the next token: the next one that was kept, as with `labels`."""
        own = torch.nn.functional.pad(shift_labels[:, :-1], (1, 0), value=-100)
        behind_the_end = self.labels(shift_labels)[:, -1:]
        return torch.cat((self.labels(own)[:, 1:], behind_the_end), dim=1)

    def logits_to_keep(self, wanted: int | torch.Tensor) -> int | torch.Tensor:
        """Slots whose logits are needed, as the stock forward takes it: 0 for all, n for the last n.

        Args:
            wanted: the same for the full prompt; positions in a tensor need all slots.
        """
        if isinstance(wanted, torch.Tensor) or wanted <= 0:
            return 0
        # The last columns of the full prompt hold at most so many kept tokens of a row, and behind those of the
        # shortest row the others' fillers begin.
        return min(self.length, wanted + self.length - min(self.lengths))

    def align(self, output: Any, logits_to_keep: int | torch.Tensor) -> Any:
        """Spreads the fields of a stock output that have one value a token over the full prompt, 0 where dropped.

        Args:
            output: the stock output for the pruned prompt; its fields are replaced.
            logits_to_keep: positions of the full prompt that the caller wants logits of.
        """

        def spread(values: torch.Tensor) -> torch.Tensor:
            last = values.shape[1]
            order = PackedOrder(self.order.index[:, -last:], self.order.valid[:, -last:])
            return order.spread(values, self.kept.shape[1], self.readable[:, -last:])

        def spread_weights(weights: torch.Tensor) -> torch.Tensor:
            # (B, heads, L', L'): queries and keys move alike.
            return spread(spread(weights.transpose(1, 2)).permute(0, 3, 2, 1)).permute(0, 2, 3, 1)

        logits = spread(output["logits"])
        if isinstance(logits_to_keep, torch.Tensor):
            logits = logits[:, logits_to_keep]
        elif logits_to_keep:
            logits = logits[:, -logits_to_keep:]
        output["logits"] = logits
        for name, align in (("hidden_states", spread), ("attentions", spread_weights)):
            if output.get(name) is not None:
                # Layers that the caller did not ask for are None.
                output[name] = tuple(None if values is None else align(values) for values in output[name])
        return output

    def steps_aligned(
        self, steps: Sequence[Sequence[torch.Tensor | None]]
    ) -> tuple[tuple[torch.Tensor | None, ...], ...]:
        """Hidden states (R, q, hidden) or attentions (R, heads, q, k) of the layers, for each step of a generation.

        Queries and keys of the pruned prompt move to the places of the full one; those of new tokens follow them.
        """
        return tuple(
            tuple(None if values is None else self._step_aligned(values, step) for values in layers)
            for step, layers in enumerate(steps)
        )

    def _step_aligned(self, values: torch.Tensor, step: int) -> torch.Tensor:
        queries = 1 if values.dim() == 3 else 2
        if values.dim() == 4 and values.shape[3] >= self.length:
            values = self._prompt_spread(values, 3)
        # With a cache, only the first step reads the prompt.
        reads_prompt = values.shape[queries] >= self.length and (step == 0 or values.shape[queries] > 1)
        return self._prompt_spread(values, queries) if reads_prompt else values

    def _prompt_spread(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """Spreads the first L' entries of a dimension over the full prompt."""
        values = values.movedim(dim, 1)
        repeats = len(values) // len(self.kept)
        order = PackedOrder(*(part.repeat_interleave(repeats, dim=0) for part in (self.order.index, self.order.valid)))
        readable = self.readable.repeat_interleave(repeats, dim=0)
        prompt = order.spread(values[:, : self.length], self.kept.shape[1], readable)
        return torch.cat((prompt, values[:, self.length :]), dim=1).movedim(1, dim)


def _packed_mask(mask: torch.Tensor | None, order: PackedOrder, device: torch.device) -> torch.Tensor | None:
    """(B, L') the caller's mask of the slots, 0 for fillers; None where there is none."""
    return None if mask is None else order.gather(mask.to(device)) * order.valid


def with_full_prompt(sequences: torch.Tensor, input_ids: torch.Tensor, pruned_length: int) -> torch.Tensor:
    """(R, L' + new) -> (R, L + new), where R is a multiple of the batch (beams, returned sequences)."""
    prompts = input_ids.to(sequences.device).repeat_interleave(len(sequences) // len(input_ids), dim=0)
    return torch.cat((prompts, sequences[:, pruned_length:]), dim=1)
