"""The way of a batch from the caller's prompt to the pruned one, and of the outputs back.

Host and device: what depends on token ids and masks is worked out on the CPU, where it is small; features, embeddings
and outputs stay on the device they are on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .prompt import PackedOrder, edge_padding, packed_length


@dataclass(frozen=True)
class Prompt:
    """A prompt as the caller gave it; B rows, L tokens.

    Attributes:
        input_ids: (B, L) integer, or None where only embeddings were given.
        inputs_embeds: (B, L, hidden) in place of the embeddings of `input_ids`, or None.
        attention_mask: (B, L), or None for no padding.
        image_mask: (B, L) bool on the CPU, the places of the vision tokens.
    """

    input_ids: torch.Tensor | None
    inputs_embeds: torch.Tensor | None
    attention_mask: torch.Tensor | None
    image_mask: torch.Tensor

    @classmethod
    def read(
        cls,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        image_token_id: int,
        embed: Callable[[torch.Tensor], torch.Tensor],
    ) -> Prompt:
        """Checks the shapes and finds the image tokens, in embeddings by their value, as the stock models do.

        Raises:
            ValueError: neither ids nor embeddings, or shapes that do not belong together.
        """
        if input_ids is not None:
            given: torch.Tensor = input_ids
        elif inputs_embeds is not None:
            given = inputs_embeds[..., 0]
        else:
            raise ValueError("A picture needs a prompt: give input_ids or inputs_embeds.")
        shape = tuple(given.shape)
        if len(shape) != 2:
            raise ValueError(f"input_ids has shape {shape}: give (batch, length).")
        if inputs_embeds is not None and inputs_embeds.shape[:2] != given.shape:
            raise ValueError(f"inputs_embeds has shape {tuple(inputs_embeds.shape)}, but input_ids {shape}.")
        if attention_mask is not None and attention_mask.shape != given.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: with a picture give one value a token, "
                f"{shape}."
            )
        if input_ids is not None:
            if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
                raise ValueError(f"input_ids has dtype {input_ids.dtype}: give token ids as integers.")
            return cls(input_ids, inputs_embeds, attention_mask, input_ids.cpu() == image_token_id)
        image_token = embed(torch.tensor(image_token_id, device=given.device))
        return cls(None, inputs_embeds, attention_mask, (inputs_embeds == image_token).all(-1).cpu())

    @property
    def device(self) -> torch.device:
        given = self.input_ids if self.input_ids is not None else self.inputs_embeds
        assert given is not None, "Prompt.read lets no prompt pass that has neither ids nor embeddings"
        return given.device

    def require_one_value_a_token(self, name: str, values: torch.Tensor | None) -> None:
        """Raises a ValueError for labels or positions that are not (B, L); (1, L) stands for every row."""
        shape = tuple(self.image_mask.shape)
        if values is not None and tuple(values.shape) not in (shape, (1, shape[1])):
            raise ValueError(f"{name} has shape {tuple(values.shape)}: give one value a token, {shape}.")

    def mask_on_cpu(self) -> torch.Tensor:
        """(B, L), 1 for every token where no attention mask was given."""
        if self.attention_mask is None:
            return torch.ones(self.image_mask.shape, dtype=torch.long)
        return self.attention_mask.cpu()

    def kept_mask(self, kept_vision: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, L) bool on the CPU: all but edge padding and dropped vision tokens.

        Args:
            kept_vision: for each picture (T,) bool, its tokens that stay.
        """
        kept = self.image_mask | ~edge_padding(self.mask_on_cpu())[0]
        return kept.masked_scatter(self.image_mask, torch.cat(list(kept_vision)))

    def rows_of_images(self, lengths: Sequence[int]) -> list[int]:
        """The batch row of each picture of so many tokens; pictures fill the image tokens of the rows in order.

        Raises:
            ValueError: more or fewer image tokens than features, or a picture that would straddle two rows.
        """
        places, features = self.image_mask.sum(1).tolist(), sum(lengths)
        if sum(places) != features:
            raise ValueError(
                f"The prompts have {sum(places)} image tokens and the pictures {features} features: give one picture "
                "for each <image> of the text, and let the processor expand them."
            )
        rows, row, left = [], -1, 0
        for length in lengths:
            while left == 0:
                row += 1
                left = places[row]
            if length > left:
                raise ValueError(
                    f"Row {row} of the batch has {left} image tokens left for a picture of {length} features: the "
                    "pictures are not in the order of the prompts."
                )
            rows.append(row)
            left -= length
        return rows


@dataclass(frozen=True)
class PrunedPrompt:
    """The prompt without the dropped vision tokens; L' tokens, padded on the side on which the prompt was.

    Attributes:
        input_ids: (B, L') or None.
        inputs_embeds: (B, L', hidden), the vision tokens in their places.
        attention_mask: (B, L') or None.
        order: where the L' tokens come from.
        kept: (B, L) bool on the CPU, tokens of the prompt that the language model reads.
        dropped_vision: (B, L) bool on the CPU, vision tokens of the prompt that it does not.
        readable: (B, L') bool on the CPU, slots that hold a token or padding of the prompt, and no dropped token.
        vision_slots: (B, L') bool, slots that hold a vision token.
        image_features: (all vision tokens, hidden), before pruning.
    """

    input_ids: torch.Tensor | None
    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor | None
    order: PackedOrder
    kept: torch.Tensor
    dropped_vision: torch.Tensor
    readable: torch.Tensor
    vision_slots: torch.Tensor
    image_features: torch.Tensor

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        projected: Sequence[torch.Tensor],
        kept_vision: Sequence[torch.Tensor],
        embed: Callable[[torch.Tensor], torch.Tensor],
        filler_id: int,
    ) -> PrunedPrompt:
        """Drops the vision tokens that were not kept.

        Args:
            prompt: the prompt.
            projected: for each picture (T, hidden), its vision tokens.
            kept_vision: for each picture (T,) bool, those that stay.
            embed: token ids -> embeddings.
            filler_id: token id for slots that nothing reads.
        """
        kept, mask = prompt.kept_mask(kept_vision), prompt.mask_on_cpu()
        padding, left_padded = edge_padding(mask)
        # Where the caller's rows are equally long but the pruned ones aren't, generation has to find the ends aligned.
        left_padded |= not bool(padding.any())
        padding = padding & ~prompt.image_mask
        order = PackedOrder.of(kept, left_padded=left_padded, length=packed_length(kept, padding))
        readable = order.valid | order.gather(padding)

        pruned_mask = None
        if prompt.attention_mask is not None or not bool(order.valid.all()):
            dtype = torch.long if prompt.attention_mask is None else prompt.attention_mask.dtype
            pruned_mask = (order.gather(mask) * order.valid).to(prompt.device, dtype)
        pruned_ids = None
        if prompt.input_ids is not None:
            pruned_ids = order.gather(prompt.input_ids).masked_fill(~readable.to(prompt.device), filler_id)
        embeds = order.gather(prompt.inputs_embeds) if prompt.inputs_embeds is not None else embed(pruned_ids)
        features = torch.cat(list(projected))
        kept_features = features[torch.cat(list(kept_vision)).to(features.device)]
        slots = (order.gather(prompt.image_mask) & order.valid).to(embeds.device)
        embeds = embeds.masked_scatter(slots[..., None], kept_features.to(embeds.device, embeds.dtype))
        dropped = prompt.image_mask & ~kept
        return cls(pruned_ids, embeds, pruned_mask, order, kept, dropped, readable, slots, features)

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
        """Further inputs with one value a token, for the shorter prompt; given positions are numbered anew."""
        shorter: dict[str, Any] = {}
        for name in ("token_type_ids", "mm_token_type_ids"):
            if inputs.get(name) is not None:
                shorter[name] = self.order.gather(inputs[name])
        if inputs.get("position_ids") is not None:
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

    def aligned(self, output: Mapping[str, Any], logits_to_keep: int | torch.Tensor) -> dict[str, Any]:
        """The fields of a stock output, those with one value a token spread over the full prompt, 0 where dropped."""

        def spread(values: torch.Tensor) -> torch.Tensor:
            return self.order.spread(values, self.kept.shape[1], self.readable)

        def spread_weights(weights: torch.Tensor) -> torch.Tensor:
            # (B, heads, L', L'): queries and keys move alike.
            return spread(spread(weights.transpose(1, 2)).permute(0, 3, 2, 1)).permute(0, 2, 3, 1)

        aligned = {name: value for name, value in output.items() if name != "image_hidden_states"}
        logits = spread(aligned["logits"])
        if isinstance(logits_to_keep, torch.Tensor):
            logits = logits[:, logits_to_keep]
        elif logits_to_keep:
            logits = logits[:, -logits_to_keep:]
        aligned["logits"] = logits
        for name, align in (("hidden_states", spread), ("attentions", spread_weights)):
            if name in aligned:
                # Layers that the caller did not ask for are None.
                aligned[name] = tuple(None if values is None else align(values) for values in aligned[name])
        return aligned

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


def with_full_prompt(sequences: torch.Tensor, input_ids: torch.Tensor, pruned_length: int) -> torch.Tensor:
    """(R, L' + new) -> (R, L + new), where R is a multiple of the batch (beams, returned sequences)."""
    prompts = input_ids.to(sequences.device).repeat_interleave(len(sequences) // len(input_ids), dim=0)
    return torch.cat((prompts, sequences[:, pruned_length:]), dim=1)
