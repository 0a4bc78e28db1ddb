"""Which vision tokens of a batch of pictures stay: budgets, crops, and the record of what was kept.

A unit is what one budget is spent on: a crop, or with `budget_scope="image"` all crops of a picture. All units of a
batch are selected together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .coverage import GreedySelection, greedy_coverage, marginal_gains
from .image_tokens import ImageTokens
from .similarity import coverage_matrix

# Entries of the coverage matrices that are held at once: 256 MiB in float32.
_ENTRIES_AT_ONCE = 2**26


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
class ImageSelection:
    """What was kept of one picture. K is the number of kept tokens that are no row separators.

    Attributes:
        batch_row: row of the batch that the picture belongs to.
        num_tokens: vision tokens of the picture, row separators included.
        indices: (K,) int64, kept tokens among the picture's vision tokens, in ascending order.
        crop, row, column: (K,) int64, the crop of each and its place in the crop's grid of patches, -1 for no place.
        pick_order: (K,) int64, 0 for the first pick of the budget that the token was picked from.
        text_gain, vision_gain: (K,) float32, what each pick added to covering the text and to covering the picture.
        coverage: float, value of the objective for the kept tokens, a mean over the units of the picture.
        full_coverage: float, the same for all tokens.
        upper_bound: float, the same for the best possible choice of as many tokens is not above this.
    """

    batch_row: int
    num_tokens: int
    indices: torch.Tensor
    crop: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    pick_order: torch.Tensor
    text_gain: torch.Tensor
    vision_gain: torch.Tensor
    coverage: float
    full_coverage: float
    upper_bound: float


@dataclass(frozen=True)
class VisionTokenSelection:
    """What was kept of every picture of a batch.

    Attributes:
        images: one `ImageSelection` for each picture, in the order of `pixel_values`.
        kept_mask: (B, L) bool, prompt tokens that the language model reads.
    """

    images: list[ImageSelection]
    kept_mask: torch.Tensor


@dataclass(frozen=True)
class _Unit:
    image: int
    tokens: torch.Tensor  # (n,) int64, among the picture's vision tokens
    budget: int


@dataclass(frozen=True)
class UnitSelection:
    """The picks of one unit, with the parts of the objective where they were asked for.

    `tokens` (n,) are the unit's tokens among the picture's, `greedy` refers to them; `shares` is (2, k) float32, text
    and vision share of the gains, and `full_coverage` the value of the objective for all tokens.
    """

    image: int
    tokens: torch.Tensor
    greedy: GreedySelection
    shares: torch.Tensor | None
    full_coverage: torch.Tensor | None


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
) -> list[UnitSelection]:
    """Runs the greedy maximiser on every unit of a batch of pictures.

    Args:
        projected: for each picture (T, d), vision tokens behind the projector as they stand in the prompt.
        raw: (all crops x tokens, d_raw), vision tokens before the projector, pictures one after another.
        images: for each picture where its T tokens come from.
        text: (I, M, d) embeddings of the text to cover, for each picture.
        text_mask: (I, M) bool, False for fillers.
        candidates: for each picture (T,) bool, tokens that may be picked; None for all.
        settings: budgets, weights and temperatures.
        explain: also split the gains into text and vision share.

    Returns:
        One `UnitSelection` for each unit, pictures one after another.
    """
    units = _units(images, settings)
    device = projected[0].device if projected else text.device
    flat = torch.cat(list(projected)) if projected else text.new_zeros(0, text.shape[-1])
    token_offset = _offsets([len(tokens) for tokens in projected])
    raw_offset = _offsets([image.tokens_before_packing for image in images])

    selections: list[UnitSelection] = []
    for chunk in _chunks(units, text.shape[1]):
        width = max(len(unit.tokens) for unit in chunk)
        tokens = torch.stack([_filled(unit.tokens + token_offset[unit.image], width, 0) for unit in chunk]).to(device)
        sources = torch.stack(
            [_filled(images[unit.image].source[unit.tokens] + raw_offset[unit.image], width, 0) for unit in chunk]
        ).to(raw.device)
        real = torch.stack([_filled(torch.ones_like(unit.tokens), width, 0) for unit in chunk]).bool().to(device)
        owners = torch.tensor([unit.image for unit in chunk], device=device)
        allowed = real
        if candidates is not None:
            flags = [candidates[unit.image].to(device)[unit.tokens.to(device)] for unit in chunk]
            allowed = real & torch.stack([_filled(flag.long(), width, 0) for flag in flags]).bool()
        behind, before = flat[tokens], raw[sources].to(device)
        if settings.center_features:
            behind, before = _centered(behind, real), _centered(before, real)
        matrix = coverage_matrix(
            text.to(device)[owners],
            behind,
            before,
            text_weight=settings.text_coverage_weight,
            vision_weight=settings.vision_coverage_weight,
            text_temperature=settings.text_temperature,
            vision_temperature=settings.vision_temperature,
            text_temperature_unit=settings.text_temperature_unit,
            text_mask=text_mask.to(device)[owners],
            vision_mask=real,
        )
        budgets = torch.tensor([unit.budget for unit in chunk], device=device)
        greedy = greedy_coverage(matrix, budgets, allowed)
        if settings.coverage_target is not None:
            # The picks up to the target are the same again; only their bound has to be that of so many.
            budgets = _sufficient(greedy, matrix, allowed, settings.coverage_target)
            greedy = greedy_coverage(matrix, budgets, allowed)
        shares = full = None
        if explain:
            rows = matrix.split([text.shape[1], width], dim=-2)
            shares = torch.stack([marginal_gains(part, greedy.indices) for part in rows], dim=-2)
            full = matrix.amax(-1).sum(-1)
        for index, unit in enumerate(chunk):
            picks = int(greedy.count[index])
            selections.append(
                UnitSelection(
                    unit.image,
                    unit.tokens,
                    GreedySelection(
                        greedy.indices[index, :picks].cpu(),
                        greedy.gains[index, :picks].cpu(),
                        *(part[index].cpu() for part in greedy[2:]),
                    ),
                    None if shares is None else shares[index, :, :picks].cpu(),
                    None if full is None else full[index].cpu(),
                )
            )
    return selections


def kept_tokens(
    selections: Sequence[UnitSelection], images: Sequence[ImageTokens], settings: CoverageSettings
) -> list[torch.Tensor]:
    """For each picture (T,) bool, the tokens that stay.

    Row separators stay where the settings keep them, and in a picture that loses no other token, which then is
    the picture that the stock model sees.
    """
    kept = [torch.zeros(len(image.source), dtype=torch.bool) for image in images]
    for unit in selections:
        kept[unit.image][unit.tokens[unit.greedy.indices]] = True
    for flags, image in zip(kept, images, strict=True):
        separator = image.source < 0
        if settings.keep_image_newline or bool((flags | separator).all()):
            flags |= separator
    return kept


def describe(
    selections: Sequence[UnitSelection], images: Sequence[ImageTokens], batch_rows: Sequence[int]
) -> list[ImageSelection]:
    """Gathers the units of each picture into one record; the units must have been selected with `explain=True`."""
    described = []
    for number, image in enumerate(images):
        own = [unit for unit in selections if unit.image == number]
        picked = [unit.tokens[unit.greedy.indices] for unit in own]
        indices, order = torch.cat(picked).sort() if picked else (torch.zeros(0, dtype=torch.long),) * 2
        ranks = torch.cat([torch.arange(len(tokens)) for tokens in picked]) if picked else indices
        shares = torch.cat([unit.shares for unit in own if unit.shares is not None], dim=-1) if own else None
        text_gain, vision_gain = shares[:, order] if shares is not None else (torch.zeros(0),) * 2
        described.append(
            ImageSelection(
                batch_row=batch_rows[number],
                num_tokens=len(image.source),
                indices=indices,
                crop=image.crop[indices],
                row=image.row[indices],
                column=image.column[indices],
                pick_order=ranks[order],
                text_gain=text_gain,
                vision_gain=vision_gain,
                coverage=_mean([unit.greedy.coverage for unit in own]),
                full_coverage=_mean([unit.full_coverage for unit in own]),
                upper_bound=_mean([unit.greedy.upper_bound for unit in own]),
            )
        )
    return described


def _units(images: Sequence[ImageTokens], settings: CoverageSettings) -> list[_Unit]:
    units = []
    for number, image in enumerate(images):
        crops = [torch.nonzero(image.crop == crop)[:, 0] for crop in image.crop[image.crop >= 0].unique()]
        budgets = [_budget(settings.vision_token_budget, len(tokens)) for tokens in crops]
        if settings.budget_scope == "image" and crops:
            crops, budgets = [torch.nonzero(image.crop >= 0)[:, 0]], [sum(budgets)]
        units += [_Unit(number, tokens, budget) for tokens, budget in zip(crops, budgets, strict=True)]
    return units


def _budget(budget: int | float | None, tokens: int) -> int:
    """Tokens to keep of a crop of `tokens` tokens."""
    if budget is None:
        return tokens
    if isinstance(budget, float):
        return max(1, round(budget * tokens))
    return min(budget, tokens)


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


def _chunks(units: Sequence[_Unit], text_rows: int) -> list[list[_Unit]]:
    """Units in runs whose coverage matrices fit into memory together."""
    chunks: list[list[_Unit]] = []
    width = 0
    for unit in units:
        width = max(width, len(unit.tokens))
        if chunks and (len(chunks[-1]) + 1) * (text_rows + width) * width <= _ENTRIES_AT_ONCE:
            chunks[-1].append(unit)
        else:
            chunks.append([unit])
            width = len(unit.tokens)
    return chunks


def _offsets(lengths: Sequence[int]) -> list[int]:
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    return offsets


def _filled(values: torch.Tensor, length: int, filler: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=filler)


def _mean(values: Sequence[torch.Tensor | None]) -> float:
    present = [float(value) for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0
