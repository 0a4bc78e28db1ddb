"""The prompt as the caller gave it: checked, read by the host once, and where its vision tokens stand.

Ids and mask are read before the images are encoded; what follows from them alone is worked out on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .devices import sent
from .image_tokens import KeptVision
from .packing import edge_padding


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
    """

    input_ids: torch.Tensor | None
    inputs_embeds: torch.Tensor | None
    attention_mask: torch.Tensor | None
    ids_on_host: torch.Tensor | None
    mask_on_host: torch.Tensor
    image_mask: torch.Tensor
    video_mask: torch.Tensor

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
        if input_ids is not None:
            given: torch.Tensor = input_ids
        elif inputs_embeds is not None:
            given = inputs_embeds[..., 0]
        else:
            raise ValueError("An image needs a prompt: give input_ids or inputs_embeds.")
        shape = tuple(given.shape)
        if len(shape) != 2:
            raise ValueError(f"input_ids has shape {shape}: give (batch, length).")
        if inputs_embeds is not None and inputs_embeds.shape[:2] != given.shape:
            raise ValueError(f"inputs_embeds has shape {tuple(inputs_embeds.shape)}, but input_ids {shape}.")
        if attention_mask is not None and attention_mask.shape != given.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: with an image give one value a token, "
                f"{shape}."
            )
        if input_ids is not None and (input_ids.is_floating_point() or input_ids.dtype == torch.bool):
            raise ValueError(f"input_ids has dtype {input_ids.dtype}: give token ids as integers.")
        mask = torch.ones(shape, dtype=torch.long) if attention_mask is None else attention_mask.cpu()
        ids = None if input_ids is None else input_ids.cpu()

        def places(token_id: int) -> torch.Tensor:
            if ids is not None:
                return ids == token_id
            return (inputs_embeds == embed(torch.tensor(token_id, device=given.device))).all(-1).cpu()

        images = places(image_token_id)
        videos = torch.zeros_like(images) if video_token_id is None else places(video_token_id)
        return cls(input_ids, inputs_embeds, attention_mask, ids, mask, images | videos, videos)

    @property
    def device(self) -> torch.device:
        given = self.input_ids if self.input_ids is not None else self.inputs_embeds
        assert given is not None, "Prompt.read lets no prompt pass that has neither ids nor embeddings"
        return given.device

    @property
    def lengths(self) -> torch.Tensor:
        """(B, 1) int64 on the CPU, tokens of each row that are no edge padding."""
        return (self.image_mask | ~edge_padding(self.mask_on_host)[0]).sum(1, keepdim=True)

    @property
    def vision_numbers(self) -> torch.Tensor:
        """(B, L) int64 on the CPU, the number of each vision token among those of all rows; any number elsewhere."""
        return (self.image_mask.flatten().cumsum(0) - 1).clamp_min(0).view(self.image_mask.shape)

    def require_one_value_a_token(self, name: str, values: torch.Tensor | None, *, axes: int = 1) -> None:
        """Raises a ValueError for labels or positions that are not (B, L); (1, L) stands for every row.

        Args:
            name: of the argument.
            values: the argument, or None.
            axes: the number of positions of a token; where there are several, (axes, B, L) is taken too.
        """
        shape = tuple(self.image_mask.shape)
        taken = [shape, (1, shape[1])] + ([(axes, *shape)] if axes > 1 else [])
        if values is not None and tuple(values.shape) not in taken:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}: give one value a token, {taken[-1 if axes > 1 else 0]}."
            )

    def kept_mask(self, kept_vision: KeptVision) -> torch.Tensor:
        """(B, L) bool on the prompt's device: all but edge padding and dropped vision tokens."""
        text = ~self.image_mask & ~edge_padding(self.mask_on_host)[0]
        places = sent(self.image_mask.flatten().nonzero()[:, 0], self.device)
        kept = sent(text.flatten(), self.device).scatter(0, places, kept_vision.flags.to(self.device))
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
