"""Which vision tokens of a batch of pictures stay.

All units of a batch (crops, or pictures whose crops share a budget) are selected together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .coverage import GreedySelection, greedy_coverage, marginal_gains
from .devices import reads_freely, sent
from .image_tokens import ImageTokens, KeptVision
from .objective import coverage_matrix
from .units import Unit, UnitTables, chunks_of, units_of


@dataclass(frozen=True)
class CoverageSettings:
    """What the objective and the budgets need; see `PruningOptions`."""

    vision_token_budget: int | float | None
    budget_scope: str
    text_coverage_weight: float
    vision_coverage_weight: float
    text_temperature: float
    vision_temperature: float
    keep_image_newline: bool
    coverage_target: float | None = None
    center_features: bool = False
    text_temperature_unit: str = "cosine"


@dataclass(frozen=True)
class UnitSelection:
    """The picks of one unit, on the CPU, with the parts of the objective where they were asked for.

    `tokens` (n,) are the unit's tokens among the picture's, `greedy` refers to them; `shares` is (2, k) float32, text
    and vision share of the gains, and `full_coverage` the value of the objective for all tokens.
    """

    image: int
    tokens: torch.Tensor
    greedy: GreedySelection
    shares: torch.Tensor | None
    full_coverage: torch.Tensor | None


@dataclass(frozen=True)
class _Chunk:
    """U units that were selected together: `tokens` (U, width) are places among all vision tokens of the batch, and
    `picks` what the host knows of each unit's number of picks; the rest as in `UnitSelection`, on the device."""

    units: list[Unit]
    picks: list[int]
    tokens: torch.Tensor
    greedy: GreedySelection
    shares: torch.Tensor | None
    full_coverage: torch.Tensor | None


@dataclass(frozen=True)
class BatchSelection:
    """The picks of every unit of a batch of pictures. They stay on the device until `units` asks for them."""

    images: Sequence[ImageTokens]
    chunks: list[_Chunk]
    device: torch.device

    def kept(self, keep_image_newline: bool) -> KeptVision:
        """The tokens that stay.

        Row separators stay where that is wanted, and in a picture that loses no other token, which then is the picture
        that the stock model sees.
        """
        counts = [0] * len(self.images)
        for chunk in self.chunks:
            for unit, picks in zip(chunk.units, chunk.picks, strict=True):
                counts[unit.image] += picks
        separators = []
        for number, image in enumerate(self.images):
            separator = image.source < 0
            found = int(separator.sum())
            stay = keep_image_newline or counts[number] + found == len(separator)
            separators.append(separator & stay)
            counts[number] += found * stay
        # One place more, for the -1 behind the picks of units that have fewer than others.
        flags = sent(torch.nn.functional.pad(torch.cat(separators), (0, 1)), self.device)
        for chunk in self.chunks:
            picked = chunk.tokens.gather(1, chunk.greedy.indices.clamp_min(0))
            places = torch.where(chunk.greedy.indices >= 0, picked, len(flags) - 1)
            flags = flags.scatter(0, places.flatten(), True)
        return KeptVision(flags[:-1], counts)

    def units(self) -> list[UnitSelection]:
        """The picks of each unit, pictures one after another; waits for the device."""
        return [
            UnitSelection(
                unit.image,
                unit.tokens,
                GreedySelection(
                    chunk.greedy.indices[index, :picks].cpu(),
                    chunk.greedy.gains[index, :picks].cpu(),
                    *(part[index].cpu() for part in chunk.greedy[2:]),
                ),
                None if chunk.shares is None else chunk.shares[index, :, :picks].cpu(),
                None if chunk.full_coverage is None else chunk.full_coverage[index].cpu(),
            )
            for chunk in self.chunks
            for index, (unit, picks) in enumerate(zip(chunk.units, chunk.picks, strict=True))
        ]


def select_units(
    projected: Sequence[torch.Tensor],
    raw: torch.Tensor,
    images: Sequence[ImageTokens],
    text: torch.Tensor,
    text_mask: torch.Tensor,
    candidates: Sequence[torch.Tensor] | None,
    settings: CoverageSettings,
    *,
    explain: bool = False,
) -> BatchSelection:
    """Runs the greedy maximiser on every unit of a batch of pictures.

    Nothing is read back from the features' device, unless `coverage_target` makes the number of picks depend on them.

    Args:
        projected: for each picture (T, d), vision tokens behind the projector as they stand in the prompt.
        raw: (all crops x tokens, d_raw), vision tokens before the projector, pictures one after another.
        images: for each picture where its T tokens come from.
        text: (I, M, d) embeddings of the text to cover, for each picture.
        text_mask: (I, M) bool on the CPU, False for fillers.
        candidates: for each picture (T,) bool on the CPU, tokens that may be picked; None for all.
        settings: budgets, weights and temperatures.
        explain: also split the gains into text and vision share.
    """
    units = units_of(images, candidates, settings.vision_token_budget, settings.budget_scope)
    flat = torch.cat(list(projected))
    device = flat.device
    text = text.to(device)
    return BatchSelection(
        images,
        [
            _select_together(chunk, images, flat, raw, text, text_mask, settings, explain)
            for chunk in chunks_of(units, text.shape[1])
        ],
        device,
    )


def _select_together(
    units: list[Unit],
    images: Sequence[ImageTokens],
    flat: torch.Tensor,
    raw: torch.Tensor,
    text: torch.Tensor,
    text_mask: torch.Tensor,
    settings: CoverageSettings,
    explain: bool,
) -> _Chunk:
    device = flat.device
    tables = UnitTables.of(units, images)
    tokens = sent(tables.tokens, device)
    owners = torch.tensor([unit.image for unit in units])
    behind, before = flat[tokens], raw[sent(tables.sources, raw.device)].to(device)
    if settings.center_features:
        real = sent(tables.real, device)
        behind, before = _centered(behind, real), _centered(before, real)
    matrix = coverage_matrix(
        text[sent(owners, device)],
        behind,
        before,
        text_weight=settings.text_coverage_weight,
        vision_weight=settings.vision_coverage_weight,
        text_temperature=settings.text_temperature,
        vision_temperature=settings.vision_temperature,
        text_temperature_unit=settings.text_temperature_unit,
        text_mask=text_mask[owners],
        vision_mask=tables.real,
        check_values=reads_freely(flat),
    )
    picks = [unit.picks for unit in units]

    def maximised() -> GreedySelection:
        return greedy_coverage(matrix, torch.tensor(picks), tables.candidates, check_values=reads_freely(flat))

    greedy = maximised()
    if settings.coverage_target is not None:
        # The picks up to the target are the same again; only their bound has to be that of so many.
        picks = _sufficient(greedy, matrix, sent(tables.candidates, device), settings.coverage_target).tolist()
        greedy = maximised()
    shares = full = None
    if explain:
        rows = matrix.split([text.shape[1], tokens.shape[1]], dim=-2)
        shares = torch.stack([marginal_gains(part, greedy.indices) for part in rows], dim=-2)
        full = matrix.amax(-1).sum(-1)
    return _Chunk(units, picks, tokens, greedy, shares, full)


def _centered(features: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(U, n, d) in float32, less the mean of each unit's tokens; (U, n) `real` is False for fillers."""
    features, weight = features.float(), real[..., None].float()
    return features - (features * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True)


def _sufficient(greedy: GreedySelection, matrix: torch.Tensor, allowed: torch.Tensor, target: float) -> torch.Tensor:
    """(U,) int64: how many picks of each unit cover `target` of what all candidates cover; all picks where none do."""
    full = matrix.masked_fill(~allowed[..., None, :], 0.0).amax(-1).sum(-1)
    covered = greedy.gains.cumsum(-1)
    # What covers everything should count as such also where sums in another order round differently.
    short = (covered < target * full[..., None] * (1 - 1e-6)).sum(-1)
    return torch.minimum(short + 1, greedy.count.to(short.device)).clamp_min(1)
