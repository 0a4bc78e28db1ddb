"""Which vision tokens of a batch of images stay. All crops of a batch are selected together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .coverage import GreedySelection, first_picks, greedy_coverage, marginal_gains
from .crops import Crop, CropTables, chunks_of, crops_of
from .devices import reads_freely, sent
from .encoded_images import EncodedImages
from .image_tokens import ImageTokens, KeptVision
from .objective import coverage_matrix
from .options import PruningOptions


@dataclass(frozen=True)
class CropSelection:
    """The picks of one crop, on the CPU, with the parts of the objective where they were asked for.

    `tokens` (n,) are the crop's tokens among the image's, `greedy` refers to them; `shares` is (2, k) float32, text
    and vision share of the gains, and `full_coverage` the value of the objective for all tokens.
    """

    image: int
    tokens: torch.Tensor
    greedy: GreedySelection
    shares: torch.Tensor | None
    full_coverage: torch.Tensor | None


@dataclass(frozen=True)
class _Chunk:
    """C crops that were selected together: `tokens` (C, width) are places among all vision tokens of the batch, and
    `picks` what the host knows of each crop's number of picks; the rest as in `CropSelection`, on the device."""

    crops: list[Crop]
    picks: list[int]
    tokens: torch.Tensor
    greedy: GreedySelection
    shares: torch.Tensor | None
    full_coverage: torch.Tensor | None


@dataclass(frozen=True)
class BatchSelection:
    """The picks of every crop of a batch of images. They stay on the device until `crops` asks for them."""

    layouts: Sequence[ImageTokens]
    chunks: list[_Chunk]
    device: torch.device

    def kept(self, keep_image_newline: bool) -> KeptVision:
        """The tokens that stay.

        Row separators stay where that is wanted, and in an image that loses no other token, which then is the image
        that the stock model sees.
        """
        counts = [0] * len(self.layouts)
        for chunk in self.chunks:
            for crop, picks in zip(chunk.crops, chunk.picks, strict=True):
                counts[crop.image] += picks
        separators = []
        for number, image in enumerate(self.layouts):
            separator = image.source < 0
            found = int(separator.sum())
            stay = keep_image_newline or counts[number] + found == len(separator)
            separators.append(separator & stay)
            counts[number] += found * stay
        # One place more, for the -1 behind the picks of crops that have fewer than others.
        flags = sent(torch.nn.functional.pad(torch.cat(separators), (0, 1)), self.device)
        for chunk in self.chunks:
            picked = chunk.tokens.gather(1, chunk.greedy.indices.clamp_min(0))
            places = torch.where(chunk.greedy.indices >= 0, picked, len(flags) - 1)
            flags = flags.scatter(0, places.flatten(), True)
        return KeptVision(flags[:-1], counts)

    def crops(self) -> list[CropSelection]:
        """The picks of each crop, images one after another; waits for the device."""
        return [
            CropSelection(
                crop.image,
                crop.tokens,
                GreedySelection(
                    chunk.greedy.indices[index, :picks].cpu(),
                    chunk.greedy.gains[index, :picks].cpu(),
                    *(part[index].cpu() for part in chunk.greedy[2:]),
                ),
                None if chunk.shares is None else chunk.shares[index, :, :picks].cpu(),
                None if chunk.full_coverage is None else chunk.full_coverage[index].cpu(),
            )
            for chunk in self.chunks
            for index, (crop, picks) in enumerate(zip(chunk.crops, chunk.picks, strict=True))
        ]


def select(
    encoded: EncodedImages,
    text: torch.Tensor,
    text_mask: torch.Tensor,
    options: PruningOptions,
    *,
    explain: bool = False,
) -> BatchSelection:
    """Runs the greedy maximiser on every crop of a batch of images.

    Nothing is read back from the features' device, unless `coverage_target` makes the number of picks depend on them.

    Args:
        encoded: the I images.
        text: (I, M, hidden) embeddings of the text to cover, for each image.
        text_mask: (I, M) bool on the CPU, False for fillers.
        options: budgets, weights and temperatures.
        explain: also split the gains into text and vision share.
    """
    crops = crops_of(encoded.layouts, encoded.candidates if options.exclude_padding else None, options)
    flat = torch.cat(list(encoded.projected)).detach()
    raw = torch.cat(list(encoded.raw)).detach()
    device = flat.device
    text = text.detach().to(device)
    return BatchSelection(
        encoded.layouts,
        [
            _select_together(chunk, encoded.layouts, flat, raw, text, text_mask, options, explain)
            for chunk in chunks_of(crops, text.shape[1])
        ],
        device,
    )


def _select_together(
    crops: list[Crop],
    layouts: Sequence[ImageTokens],
    flat: torch.Tensor,
    raw: torch.Tensor,
    text: torch.Tensor,
    text_mask: torch.Tensor,
    options: PruningOptions,
    explain: bool,
) -> _Chunk:
    device = flat.device
    tables = CropTables.of(crops, layouts)
    tokens = sent(tables.tokens, device)
    owners = torch.tensor([crop.image for crop in crops])
    matrix = coverage_matrix(
        text[sent(owners, device)],
        flat[tokens],
        raw[sent(tables.sources, raw.device)].to(device),
        text_weight=options.text_coverage_weight,
        vision_weight=options.vision_coverage_weight,
        text_temperature=options.text_temperature,
        vision_temperature=options.vision_temperature,
        text_temperature_unit=options.text_temperature_unit,
        text_mask=text_mask[owners],
        vision_mask=tables.real,
        check_values=reads_freely(flat),
    )
    picks = [crop.picks for crop in crops]
    greedy = greedy_coverage(matrix, torch.tensor(picks), tables.candidates, check_values=reads_freely(flat))
    if options.coverage_target is not None:
        picks = _sufficient(greedy, matrix, sent(tables.candidates, device), options.coverage_target).tolist()
        greedy = first_picks(greedy, matrix, torch.tensor(picks), tables.candidates)
    shares = full = None
    if explain:
        rows = matrix.split([text.shape[1], tokens.shape[1]], dim=-2)
        shares = torch.stack([marginal_gains(part, greedy.indices) for part in rows], dim=-2)
        full = matrix.amax(-1).sum(-1)
    return _Chunk(crops, picks, tokens, greedy, shares, full)


def _sufficient(greedy: GreedySelection, matrix: torch.Tensor, allowed: torch.Tensor, target: float) -> torch.Tensor:
    """(C,) int64: how many picks of each crop cover `target` of what all candidates cover; all picks where none do."""
    full = matrix.masked_fill(~allowed[..., None, :], 0.0).amax(-1).sum(-1)
    covered = greedy.gains.cumsum(-1)
    # What covers everything should count as such also where sums in another order round differently.
    short = (covered < target * full[..., None] * (1 - 1e-6)).sum(-1)
    return torch.minimum(short + 1, greedy.count.to(short.device)).clamp_min(1)
