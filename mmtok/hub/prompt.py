"""A batch's prompt: as the caller gave it, without the dropped vision tokens, and the outputs on their way back.

Ids and mask are read before the images are encoded; what follows from them alone is worked out on the CPU. Which tokens
stay is known to the device only; how many, and so every shape, to the host too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .devices import to_device
from .images import EncodedVision
from .selection import Selection

# What DeepStack adds to the arguments of a forward pass: features of the tower's middle layers, which the first layers
# of the language model add to vision tokens. Stock hands them over beside the images, which a pruned prompt has not.
DEEPSTACK = "deepstack"


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
        """(B, L, ...) -> (B, L', ...); (1, L, ...) stands for every row."""
        index = self.index.to(values.device)
        values = values.expand(len(index), *values.shape[1:])
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
    """Finds the padding that may leave a batch: the run of zeros in front of each row of a mask, or else behind it.

    Zeros inside a row stay where they are.

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
    """Columns of the packed batch: its longest row, and the columns of edge padding that all rows share."""
    return max(lengths) + int(padding.sum(1).min())


@dataclass(frozen=True)
class Prompt:
    """A prompt as the caller gave it; B rows, L tokens.

    Attributes:
        input_ids: (B, L) integer, or None where only embeddings were given.
        inputs_embeds: (B, L, hidden) in place of the embeddings of `input_ids`, or None.
        attention_mask: (B, L), or None for no padding.
        ids_on_host: (B, L) a copy of `input_ids` on the CPU, or None.
        mask_on_host: (B, L) a copy of `attention_mask` on the CPU, 1 for every token where there is none.
        image_mask: (B, L) bool on the CPU, the places of the vision tokens, of images and videos.
        video_mask: (B, L) bool on the CPU, those of videos.
        surplus: (B, L) bool on the CPU, tokens that images shrunk inside the model have no features for. They are no
            vision tokens, and leave the prompt.
    """

    input_ids: torch.Tensor | None
    inputs_embeds: torch.Tensor | None
    attention_mask: torch.Tensor | None
    ids_on_host: torch.Tensor | None
    mask_on_host: torch.Tensor
    image_mask: torch.Tensor
    video_mask: torch.Tensor
    surplus: torch.Tensor

    @classmethod
    def read(
        cls,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        image_token_id: int,
        embed: Callable[[torch.Tensor], torch.Tensor],
        video_token_id: int | None = None,
    ) -> Prompt:
        """Checks the shapes and finds the vision tokens, in embeddings by their value, as the stock models do.

        Args:
            input_ids, inputs_embeds, attention_mask: of the caller.
            image_token_id: what stands for each token of an image.
            embed: token ids -> embeddings.
            video_token_id: what stands for each token of a video; None for a prompt without videos.

        Raises:
            ValueError: neither ids nor embeddings, or shapes that do not belong together.
        """
        for name, values in (
            ("input_ids", input_ids), ("inputs_embeds", inputs_embeds), ("attention_mask", attention_mask),
        ):  # fmt: skip
            if values is not None and not isinstance(values, torch.Tensor):
                raise ValueError(f"{name} is a {type(values).__name__}: give a tensor.")
        given = inputs_embeds[..., 0] if input_ids is None and inputs_embeds is not None else input_ids
        if given is None:
            raise ValueError("An image needs a prompt: give input_ids or inputs_embeds.")
        shape = tuple(given.shape)
        if len(shape) != 2:
            raise ValueError(f"input_ids has shape {shape}: give (batch, length).")
        if inputs_embeds is not None and inputs_embeds.shape[:2] != given.shape:
            raise ValueError(f"inputs_embeds has shape {tuple(inputs_embeds.shape)}, but input_ids {shape}.")
        width = getattr(embed, "embedding_dim", None)
        if inputs_embeds is not None and width is not None and inputs_embeds.shape[2:] != (width,):
            raise ValueError(f"inputs_embeds has shape {tuple(inputs_embeds.shape)}: give {(*shape, width)}.")
        if attention_mask is not None and attention_mask.shape != given.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: with an image give one value a token, "
                f"{shape}."
            )
        if input_ids is not None and (input_ids.is_floating_point() or input_ids.dtype == torch.bool):
            raise ValueError(f"input_ids has dtype {input_ids.dtype}: give token ids as integers.")
        if 0 in shape:
            raise ValueError(f"The prompt has shape {shape}: give at least one row of at least one token.")
        mask = torch.ones(shape, dtype=torch.long) if attention_mask is None else attention_mask.cpu()
        if not bool(mask.any()):
            raise ValueError("attention_mask is 0 for every token: give 1 for those that are to be read.")
        ids = None if input_ids is None else input_ids.cpu()

        def places(token_id: int) -> torch.Tensor:
            if ids is not None:
                return ids == token_id
            return (inputs_embeds == embed(torch.tensor(token_id, device=given.device))).all(-1).cpu()

        images = places(image_token_id)
        videos = torch.zeros_like(images) if video_token_id is None else places(video_token_id)
        known = getattr(embed, "num_embeddings", None)
        if ids is not None and known is not None:
            wrong = ids[~(images | videos) & ((ids < 0) | (ids >= known))]
            if len(wrong):
                raise ValueError(f"input_ids contains {int(wrong[0])}: give ids from 0 to {known - 1}.")
        none = torch.zeros_like(images)
        return cls(input_ids, inputs_embeds, attention_mask, ids, mask, images | videos, videos, none)

    @property
    def device(self) -> torch.device:
        given = self.input_ids if self.input_ids is not None else self.inputs_embeds
        assert given is not None, "Prompt.read lets no prompt pass that has neither ids nor embeddings"
        return given.device

    @property
    def real(self) -> torch.Tensor:
        """(B, L) bool on the CPU, tokens that the mask shows, and all vision tokens."""
        return ((self.mask_on_host != 0) | self.image_mask) & ~self.surplus

    @property
    def text(self) -> torch.Tensor:
        """(B, L) bool on the CPU, all but vision tokens, those of `surplus` and edge padding."""
        return ~self.image_mask & ~self.surplus & ~edge_padding(self.mask_on_host)[0]

    @property
    def lengths(self) -> torch.Tensor:
        """(B, 1) int64 on the CPU, tokens of each row that are not edge padding."""
        return (self.image_mask | self.text).sum(1, keepdim=True)

    def without(self, surplus: torch.Tensor) -> Prompt:
        """The prompt of images that were shrunk inside the model; (all vision tokens,) bool, which have no features.

        Raises:
            ValueError: the mask hides a vision token.
        """
        if not bool(self.mask_on_host[self.image_mask].all()):
            raise ValueError(
                "attention_mask hides vision tokens, and image_scale shrinks their images, which have no such tokens "
                "then: leave image_scale out."
            )
        places = torch.zeros_like(self.image_mask)
        places[self.image_mask] = surplus
        return replace(self, image_mask=self.image_mask & ~places, video_mask=self.video_mask & ~places, surplus=places)

    def readable(self, lengths: Sequence[int]) -> list[torch.Tensor] | None:
        """For each image of so many tokens (T,) bool on the CPU, False where the mask hides a token; None for all."""
        seen = self.mask_on_host[self.image_mask] != 0
        return None if bool(seen.all()) else list(seen.split(list(lengths)))

    def require_per_token(self, arguments: Mapping[str, Any], *, axes: int) -> None:
        """Raises a ValueError for labels, types or positions of tokens that are not (B, L); (1, L) is for every row.

        Args:
            arguments: those of the caller.
            axes: the number of positions of a token; where there are several, (axes, B, L) is taken for them too.
        """
        shape = tuple(self.image_mask.shape)
        for name in ("labels", "shift_labels", "token_type_ids", "mm_token_type_ids", "position_ids"):
            values = arguments.get(name)
            if values is None:
                continue
            if not isinstance(values, torch.Tensor):
                raise ValueError(f"{name} is a {type(values).__name__}: give a tensor.")
            if values.dtype == torch.bool:
                raise ValueError(f"{name} has dtype torch.bool: give numbers.")
            wanted = (axes, *shape) if axes > 1 and name == "position_ids" else shape
            if tuple(values.shape) not in (wanted, shape, (1, shape[1])):
                raise ValueError(f"{name} has shape {tuple(values.shape)}: give one value a token, {wanted}.")

    def kept_mask(self, kept_vision: Selection) -> torch.Tensor:
        """(B, L) bool on the prompt's device: all but edge padding and dropped vision tokens."""
        places = to_device(self.image_mask.flatten().nonzero()[:, 0], self.device)
        kept = to_device(self.text.flatten(), self.device).scatter(0, places, kept_vision.flags.to(self.device))
        return kept.view(self.image_mask.shape)

    def order_of(self, lengths: Sequence[int], videos: Sequence[bool]) -> list[int]:
        """The numbers of images and videos in the order in which they stand in the prompts.

        Args:
            lengths: tokens of each.
            videos: which of them are videos; those of a kind stand in their order.

        Raises:
            ValueError: more or fewer tokens of a kind than features, or an image or video in whose tokens stands
                another.
        """
        if not any(videos):
            return list(range(len(lengths)))
        kinds = self.video_mask[self.image_mask]
        waiting = {kind: [number for number, video in enumerate(videos) if video == kind] for kind in (False, True)}
        for kind, numbers in waiting.items():
            found, features = int((kinds == kind).sum()), sum(lengths[number] for number in numbers)
            _require_as_many("video" if kind else "image", found, features)
        order: list[int] = []
        place = 0
        while place < len(kinds):
            kind = bool(kinds[place])
            number = waiting[kind].pop(0)
            if not bool((kinds[place : place + lengths[number]] == kind).all()):
                name = "video" if kind else "image"
                raise ValueError(
                    f"The {name} of {lengths[number]} features has others among its tokens: let the tokens of each "
                    "image and of each video stand together."
                )
            order.append(number)
            place += lengths[number]
        return order

    def rows_of_images(self, lengths: Sequence[int]) -> list[int]:
        """The batch row of each image of so many tokens; images fill the image tokens of the rows in order.

        Raises:
            ValueError: more or fewer image tokens than features, or an image that would straddle two rows.
        """
        places, features = self.image_mask.sum(1).tolist(), sum(lengths)
        _require_as_many("image", sum(places), features)
        rows, row, left = [], -1, 0
        for length in lengths:
            while left == 0:
                row += 1
                left = places[row]
            if length > left:
                raise ValueError(
                    f"Row {row} of the batch has {left} image tokens left for an image of {length} features: the "
                    "images are not in the order of the prompts."
                )
            rows.append(row)
            left -= length
        return rows


def _require_as_many(name: str, tokens: int, features: int) -> None:
    if tokens != features:
        raise ValueError(
            f"The prompts have {tokens} {name} tokens and the {name}s {features} features: give one {name} for each "
            f"<{name}> of the text, and let the processor expand them."
        )


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
        """Those of a full prompt: (B, L), (1, L) or (3, B, L) of stock or of the caller."""
        real = prompt.real
        places = position_ids.cpu().expand(3, *real.shape)
        # Generation goes on behind the last token, which may lie in front of the last frame of a long video.
        last = torch.where(real, torch.arange(real.shape[1]), 0).amax(1)
        following = places.gather(2, last[None, :, None].expand(3, -1, -1)).amax(0) + 1
        return cls(places, following, real.sum(1, keepdim=True))

    def packed(self, order: PackedOrder, dropped: torch.Tensor, device: torch.device) -> GridPositions:
        """Those of the slots of a pruned prompt, of which each row loses (B, 1) `dropped` tokens, on its device."""
        places = to_device(self.places, device).gather(2, order.index.to(device).expand(3, -1, -1))
        return GridPositions(places, to_device(self.following, device), to_device(self.tokens - dropped, device))

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
        deepstack: for each of the first layers of the language model (B, L', hidden), features of the vision slots and
            any value at others; None for a family without such features.
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
    encoded: EncodedVision
    positions: GridPositions | None = None
    deepstack: Sequence[torch.Tensor] | None = None

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        encoded: EncodedVision,
        kept_vision: Selection,
        embed: Callable[[torch.Tensor], torch.Tensor],
        filler_id: int,
    ) -> PrunedPrompt:
        """Drops the vision tokens that were not kept; `filler_id` is the token of slots that nothing reads."""
        device, kept = prompt.device, prompt.kept_mask(kept_vision)
        padding, left_padded = edge_padding(prompt.mask_on_host)
        # Where the caller's rows are equally long but the pruned ones aren't, generation has to find the ends aligned.
        left_padded |= not bool(padding.any())
        padding = padding & ~prompt.image_mask
        text = prompt.text.sum(1).tolist()
        rows = prompt.rows_of_images(encoded.lengths)
        lengths = [
            own + sum(count for owner, count in zip(rows, kept_vision.counts, strict=True) if owner == row)
            for row, own in enumerate(text)
        ]
        length = packed_length(lengths, padding)
        order = PackedOrder.of(kept, left_padded=left_padded, length=length)
        readable = order.valid | order.gather(to_device(padding, device))

        pruned_mask = pruned_ids = deepstack = None
        if prompt.attention_mask is not None:
            pruned_mask = order.gather(prompt.attention_mask.to(device)) * order.valid
        elif min(lengths, default=length) < length:
            pruned_mask = order.valid.long()
        if prompt.input_ids is not None:
            pruned_ids = order.gather(prompt.input_ids).masked_fill(~readable, filler_id)
        embeds = order.gather(prompt.inputs_embeds) if prompt.inputs_embeds is not None else embed(pruned_ids)
        slots = (order.gather(to_device(prompt.image_mask, device)) & order.valid).to(embeds.device)
        # The number of each vision token among those of all rows; any number elsewhere.
        numbers = (prompt.image_mask.flatten().cumsum(0) - 1).clamp_min(0).view(prompt.image_mask.shape)
        numbers = order.gather(to_device(numbers, device))

        def of_slots(features: Sequence[torch.Tensor]) -> torch.Tensor:
            together = torch.cat(list(features))
            return together[numbers.to(together.device)]

        own = of_slots(encoded.projected).to(embeds.device, embeds.dtype)
        embeds = torch.where(slots[..., None], own, embeds)
        dropped = to_device(prompt.image_mask | prompt.surplus, device) & ~kept
        if encoded.deepstack is not None:
            deepstack = list(map(of_slots, zip(*encoded.deepstack, strict=True)))
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

    def light(self) -> PrunedPrompt:
        """The prompt without embeddings, images and their features, for what outlives a call."""
        empty = self.inputs_embeds.new_empty(*self.inputs_embeds.shape[:2], 0)
        return replace(self, inputs_embeds=empty, encoded=self.encoded[:0], deepstack=None)

    def language_inputs(self) -> dict[str, Any]:
        """The arguments of the stock language model for the prompt."""
        arguments = {"inputs_embeds": self.inputs_embeds, "attention_mask": self.attention_mask}
        if self.positions is not None:
            arguments["position_ids"] = self.positions.places
        return {
            **arguments,
            **({} if self.deepstack is None else deepstack_arguments(self.vision_slots, self.deepstack)),
        }

    @property
    def dropped(self) -> int:
        """By how much the batch is shorter than the caller's."""
        return self.kept.shape[1] - self.length

    def without_dropped(self, values: torch.Tensor) -> torch.Tensor:
        """(B, L + n, ...) -> (B, L' + n, ...): of the prompt the slots, and what follows it."""
        length = self.kept.shape[1]
        return torch.cat((self.order.gather(values[:, :length]), values[:, length:]), dim=1)

    def renumbered(self, positions: torch.Tensor) -> torch.Tensor:
        """(B, L + n) or (1, L + n) -> (B, L' + n), less the dropped tokens in front of each."""
        dropped = self.dropped_vision.to(positions.device).cumsum(1)
        behind = dropped[:, -1:].expand(-1, positions.shape[1] - dropped.shape[1])
        return self.without_dropped((positions - torch.cat((dropped, behind), dim=1)).clamp_min(0))

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
            shorter["position_ids"] = self.renumbered(inputs["position_ids"])
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

        `wanted` is the same for the full prompt; positions in a tensor need all slots.
        """
        if isinstance(wanted, torch.Tensor) or wanted <= 0:
            return 0
        # The last columns of the full prompt hold at most so many kept tokens of a row, and behind those of the
        # shortest row the others' fillers begin.
        return min(self.length, wanted + self.length - min(self.lengths))

    def align(self, output: Any, logits_to_keep: int | torch.Tensor) -> Any:
        """Spreads the fields of a stock output that have one value a token over the full prompt, 0 where dropped.

        The fields are replaced. `logits_to_keep` says of which positions of the full prompt the caller wants logits.
        """

        last = output["logits"].shape[1]
        order = PackedOrder(self.order.index[:, -last:], self.order.valid[:, -last:])
        logits = order.spread(output["logits"], self.kept.shape[1], self.readable[:, -last:])
        if isinstance(logits_to_keep, torch.Tensor):
            logits = logits[:, logits_to_keep]
        elif logits_to_keep:
            logits = logits[:, -logits_to_keep:]
        output["logits"] = logits
        for name in ("hidden_states", "attentions"):
            if output.get(name) is not None:
                [output[name]] = self.steps_aligned([output[name]])
        return output

    def steps_aligned(
        self, steps: Sequence[Sequence[torch.Tensor | None]]
    ) -> tuple[tuple[torch.Tensor | None, ...], ...]:
        """Hidden states (R, q, hidden) or attentions (R, heads, q, k) of the layers, for each step of a generation.

        Queries and keys of the pruned prompt move to the places of the full one; those of new tokens follow them.
        Layers that the caller did not ask for are None.
        """
        return tuple(
            tuple(None if values is None else self._step_aligned(values, step) for values in layers)
            for step, layers in enumerate(steps)
        )

    def _step_aligned(self, values: torch.Tensor, step: int) -> torch.Tensor:
        queries = 1 if values.dim() == 3 else 2
        if values.dim() == 4:
            # A layer with a window has no keys in front of it any more: nothing of these is read.
            left_behind = max(0, self.length + step - values.shape[3])
            values = self._prompt_spread(torch.nn.functional.pad(values, (left_behind, 0)), 3)
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


def columns_of(values: torch.Tensor, start: int, rows: int, width: int) -> torch.Tensor:
    """(B, L', ...) -> (rows, width, ...): columns of slots, 0 behind the prompt; `rows` is a multiple of B (beams)."""
    own = values[:, start : start + width].repeat_interleave(rows // len(values), dim=0)
    return torch.nn.functional.pad(own, (0, 0) * (own.dim() - 2) + (0, width - own.shape[1]))


def deepstack_arguments(slots: torch.Tensor, layers: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What stock gives its language model for features of DeepStack; the value of `DEEPSTACK`.

    Args:
        slots: (B, n) bool, slots that hold a vision token.
        layers: for each of the first layers of the language model (B, n, hidden), any value at other slots.
    """
    features = [layer[slots.to(layer.device)] for layer in layers]
    return {"visual_pos_masks": slots, "deepstack_visual_embeds": features}


def with_full_prompt(sequences: torch.Tensor, input_ids: torch.Tensor, pruned_length: int) -> torch.Tensor:
    """(R, L' + new) -> (R, L + new), where R is a multiple of the batch (beams, returned sequences)."""
    prompts = input_ids.to(sequences.device).repeat_interleave(len(sequences) // len(input_ids), dim=0)
    return torch.cat((prompts, sequences[:, pruned_length:]), dim=1)
