"""Which vision tokens of a batch of images stay, and the record of it. All crops of a batch are selected together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from .blockwise_greedy import blockwise_greedy_coverage, value_of_all
from .coverage import GreedySelection, coverage_value, first_picks, greedy_coverage, marginal_gains, spread_depths
from .devices import to_device
from .images import EncodedVision, Layout
from .objective import CoverageRows, coverage_matrix
from .options import PruningOptions
from .question import Question

# Entries of the coverage matrices that are held at once: 256 MiB in float32.
_ENTRIES_AT_ONCE = 2**26
# Tokens above which the matrix of a crop, then a video, is not held at all: 1 GiB.
_MOST_HELD = 2**14


@dataclass(frozen=True)
class Crop:
    """A crop of an image with its budget, or all crops of an image or video that share theirs, as if they were one.

    Attributes:
        image: number of the image.
        tokens: (n,) int64 on the CPU, the crop's tokens among the image's.
        budget: tokens to keep.
        candidates: (n,) bool on the CPU, tokens that may be kept.
    """

    image: int
    tokens: torch.Tensor
    budget: int
    candidates: torch.Tensor

    @property
    def picks(self) -> int:
        """Tokens that are kept: the budget, or all that may be."""
        return min(self.budget, int(self.candidates.sum()))


def crops_of(
    layouts: Sequence[Layout],
    candidates: Sequence[torch.Tensor] | None,
    options: PruningOptions,
    readable: Sequence[torch.Tensor] | None = None,
) -> list[Crop]:
    """The crops of a batch of images, images one after another.

    Args:
        layouts: where the tokens of each image come from.
        candidates: for each image (T,) bool on the CPU, tokens that may be kept; None for all.
        options: the budget and its scope.
        readable: for each image (T,) bool on the CPU, False for tokens that the attention mask hides; None for all.
            They are kept only in a crop whose budget is all of its tokens, which then is the stock model's.
    """
    crops: list[Crop] = []
    for number, layout in enumerate(layouts):
        parts = [torch.nonzero(layout.crop == crop)[:, 0] for crop in layout.crop[layout.crop >= 0].unique()]
        budgets = [options.budget_of(len(tokens)) for tokens in parts]
        shared = options.budget_scope == "video" or (options.budget_scope == "image" and not layout.is_video)
        if shared and parts:
            parts, budgets = [torch.nonzero(layout.crop >= 0)[:, 0]], [sum(budgets)]
        for tokens, budget in zip(parts, budgets, strict=True):
            allowed = torch.ones(len(tokens), dtype=torch.bool)
            if candidates is not None:
                allowed &= candidates[number][tokens]
            if readable is not None and budget < len(tokens):
                allowed &= readable[number][tokens]
            crops.append(Crop(number, tokens, budget, allowed))
    return crops


def chunks_of(crops: Sequence[Crop], text_rows: int) -> list[list[Crop]]:
    """Crops in runs whose coverage matrices fit into memory together."""
    chunks: list[list[Crop]] = []
    width = 0
    for crop in crops:
        width = max(width, len(crop.tokens))
        if chunks and (len(chunks[-1]) + 1) * (text_rows + width) * width <= _ENTRIES_AT_ONCE:
            chunks[-1].append(crop)
        else:
            chunks.append([crop])
            width = len(crop.tokens)
    return chunks


@dataclass(frozen=True)
class SelectedCrops:
    """C crops that were selected from together, filled up to the largest of them; on the features' device.

    Attributes:
        crops: the crops.
        picks: of each crop the most picks there can be, which the host knows.
        tokens: (C, width) int64, the crops' tokens among all vision tokens of the batch.
        greedy: the picks among `tokens`.
        shares: (C, 2, k) float32, what of each gain covers the text and what the image; None where nobody asked.
        full_coverage: (C,) value of the objective for all tokens; None where nobody asked.
    """

    crops: list[Crop]
    picks: list[int]
    tokens: torch.Tensor
    greedy: GreedySelection
    shares: torch.Tensor | None
    full_coverage: torch.Tensor | None


@dataclass(frozen=True)
class Selection:
    """Which vision tokens of a batch of images stay.

    Attributes:
        flags: (all vision tokens,) bool, images one after another; on any device.
        counts: for each image how many stay; the host knows without reading `flags`.
        selected: how `select` chose them; empty where something else did.
    """

    flags: torch.Tensor
    counts: list[int]
    selected: Sequence[SelectedCrops] = ()

    @classmethod
    def of(cls, flags: Sequence[torch.Tensor], layouts: Sequence[Layout]) -> Selection:
        """The kept tokens of images, (T,) bool for each, counted.

        A separator that goes with its row is kept with a token of the row.
        """
        kept = _with_ends_of_rows(torch.cat(list(flags)), layouts)
        return cls(kept, [int(own.sum()) for own in kept.split([len(own) for own in flags])])


def select(
    encoded: EncodedVision,
    text: torch.Tensor,
    text_mask: torch.Tensor,
    options: PruningOptions,
    *,
    readable: Sequence[torch.Tensor] | None = None,
    explain: bool = False,
) -> Selection:
    """Runs the greedy maximiser on every crop of a batch of images.

    Row separators stay as `kept_separators` says, so that an image that loses nothing is the one that the stock model
    sees. Nothing is read back from the features' device, unless the number of tokens depends on them: with
    `coverage_target`, and where separators go with their rows.

    Args:
        encoded: the I images.
        text: (I, M, hidden) embeddings of the text to cover, for each image.
        text_mask: (I, M) bool on the CPU, False for fillers.
        options: budgets, weights and temperatures.
        readable: for each image (T,) bool on the CPU, False for tokens that the attention mask hides; None for all.
        explain: also split the gains into text and vision share.
    """
    crops = crops_of(encoded.layouts, encoded.candidates if options.padding == "exclude" else None, options, readable)
    flat = torch.cat(list(encoded.projected)).detach()
    raw = torch.cat(list(encoded.raw)).detach()
    device = flat.device
    text = text.detach().to(device)
    selected = [
        _select_together(together, encoded.layouts, flat, raw, text, text_mask, options, explain)
        for together in chunks_of(crops, text.shape[1])
    ]
    counts = [0] * len(encoded.layouts)
    for part in selected:
        for crop, picks in zip(part.crops, part.picks, strict=True):
            counts[crop.image] += picks
    separators = [kept_separators(*each) for each in zip(encoded.layouts, counts, strict=True)]
    counts = [count + int(own.sum()) for count, own in zip(counts, separators, strict=True)]
    # One place more, for the -1 behind the picks of crops that have fewer than others.
    flags = to_device(torch.nn.functional.pad(torch.cat(separators), (0, 1)), device)
    for part in selected:
        picked = part.tokens.gather(1, part.greedy.indices.clamp_min(0))
        places = torch.where(part.greedy.indices >= 0, picked, len(flags) - 1)
        flags = flags.scatter(0, places.flatten(), True)
    flags = flags[:-1]
    if any(layout.ends_rows for layout in encoded.layouts):
        flags = _with_ends_of_rows(flags, encoded.layouts)
        counts = [int(own.sum()) for own in flags.cpu().split(encoded.lengths)]
    return Selection(flags, counts, selected)


def kept_separators(layout: Layout, picks: int) -> torch.Tensor:
    """(T,) bool on the CPU: the row separators that stay beside so many other tokens of an image.

    All of them do where no other token is dropped. Those that go with their rows are found by what is kept of the
    rows, and none of them is here.
    """
    separator = layout.source < 0
    stay = picks + int(separator.sum()) == len(separator)
    return separator & (stay and not layout.ends_rows)


def _with_ends_of_rows(flags: torch.Tensor, layouts: Sequence[Layout]) -> torch.Tensor:
    """The (all vision tokens,) flags, and True for each separator behind a row of which a token is kept.

    They are False for separators that go with their rows.
    """
    kept = []
    for own, layout in zip(flags.split([len(layout.source) for layout in layouts]), layouts, strict=True):
        if not layout.ends_rows:
            kept.append(own)
            continue
        separator = layout.source < 0
        row = layout.row.clone()
        row[separator] = row[separator.roll(-1)]  # that of the token in front
        rows = to_device(row, flags.device)
        filled = torch.zeros(int(row.max()) + 1, device=flags.device).index_add(0, rows, own.float()) > 0
        kept.append(own | (to_device(separator, flags.device) & filled[rows]))
    return torch.cat(kept)


def _select_together(
    crops: list[Crop],
    layouts: Sequence[Layout],
    flat: torch.Tensor,
    raw: torch.Tensor,
    text: torch.Tensor,
    text_mask: torch.Tensor,
    options: PruningOptions,
    explain: bool,
) -> SelectedCrops:
    device = flat.device
    width = max(len(crop.tokens) for crop in crops)
    first_token = list(accumulate((len(layout.source) for layout in layouts), initial=0))
    first_source = list(accumulate((layout.tokens_before_packing for layout in layouts), initial=0))

    def filled(values: Sequence[torch.Tensor]) -> torch.Tensor:
        """(C, width) on the CPU."""
        return torch.stack([torch.nn.functional.pad(each, (0, width - len(each))) for each in values])

    tokens = to_device(filled([crop.tokens + first_token[crop.image] for crop in crops]), device)
    sources = filled([layouts[crop.image].source[crop.tokens] + first_source[crop.image] for crop in crops])
    candidates = filled([crop.candidates for crop in crops])
    real = filled([torch.ones_like(crop.candidates) for crop in crops])
    owners = torch.tensor([crop.image for crop in crops])
    text, text_mask = text[to_device(owners, device)], text_mask[owners]
    vision, raw_vision = flat[tokens], raw[to_device(sources, raw.device)].to(device)
    settings: dict[str, Any] = {
        "text_weight": options.text_coverage_weight,
        "vision_weight": options.vision_coverage_weight,
        "text_temperature": options.text_temperature,
        "vision_temperature": options.vision_temperature,
        "check_values": device.type == "cpu",  # elsewhere a look at values would wait
    }
    by_spread = options.text_coverage_depth == "spread"
    if width > _MOST_HELD:
        [crop] = crops
        words = to_device(torch.nonzero(text_mask[0])[:, 0], device)
        rows = CoverageRows(text[0, words], vision[0], raw_vision[0], **settings)
        depth = spread_depths(rows.text, width) if by_spread else options.text_coverage_depth
        greedy, share = blockwise_greedy_coverage(
            rows, crop.budget, crop.candidates, depth=depth, target=options.coverage_target
        )
        every = torch.ones(width, dtype=torch.bool, device=device)
        full = value_of_all(rows, every, depth=depth)[None] if explain else None
        greedy = GreedySelection(*(part[None] for part in greedy))
        return SelectedCrops(crops, [greedy.indices.shape[1]], tokens, greedy, share[None] if explain else None, full)
    matrix = coverage_matrix(text, vision, raw_vision, text_mask=text_mask, vision_mask=real, **settings)
    picks = [crop.picks for crop in crops]
    deep = {"deep_rows": text.shape[1], "depth": options.text_coverage_depth}
    if by_spread:
        tokens_each = to_device(real.sum(-1), device)
        deep["depth"] = spread_depths(matrix[..., : text.shape[1], :], tokens_each)
    greedy = greedy_coverage(
        matrix, torch.tensor([crop.budget for crop in crops]), candidates, **deep, check_values=device.type == "cpu"
    )
    if options.coverage_target is not None:
        allowed = matrix.masked_fill(~to_device(candidates, device)[..., None, :], 0.0)
        picks = _sufficient(greedy, coverage_value(allowed, **deep), options.coverage_target).tolist()
        greedy = first_picks(greedy, matrix, torch.tensor(picks), candidates, **deep)
    shares = full = None
    if explain:
        words, image = matrix.split([text.shape[1], tokens.shape[1]], dim=-2)
        gains = [marginal_gains(words, greedy.indices, **deep), marginal_gains(image, greedy.indices)]
        shares, full = torch.stack(gains, dim=-2), coverage_value(matrix, **deep)
    return SelectedCrops(crops, picks, tokens, greedy, shares, full)


def _sufficient(greedy: GreedySelection, full: torch.Tensor, target: float) -> torch.Tensor:
    """(C,) int64: how many picks of each crop cover `target` of what all candidates cover; all picks where none do."""
    covered = greedy.gains.cumsum(-1)
    # What covers everything should count as such also where sums in another order round differently.
    short = (covered < target * full[..., None] * (1 - 1e-6)).sum(-1)
    return torch.minimum(short + 1, greedy.count.to(short.device)).clamp_min(1)


@dataclass(frozen=True)
class ImageSelection:
    """What was kept of one image or video. K is the number of kept tokens that are not row separators.

    Attributes:
        batch_row: row of the batch that the image belongs to.
        num_tokens: vision tokens of the image in the prompt, row separators included.
        indices: (K,) int64, kept tokens among the image's vision tokens, in ascending order.
        crop, row, column: (K,) int64, the crop of each, of a video the frame, and its place in the crop's grid of
            patches, -1 for no place.
        pick_order: (K,) int64, 0 for the first pick of the budget that the token was picked from.
        text_gain, vision_gain: (K,) float32, what each pick added to covering the text and to covering the image.
        coverage: float, value of the objective for the kept tokens, a mean over the crops of the image.
        full_coverage: float, the same for all tokens.
        upper_bound: float, the same for the best possible choice of as many tokens is not above this.
        is_video: whether the crops are the frames of a video.
        words: of the question that were covered, in order; empty where no tokenizer was there to read them.
        word_ids: the token ids of the words, whose embeddings are the text rows.
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
    is_video: bool = False
    words: tuple[str, ...] = ()
    word_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class VisionTokenSelection:
    """What was kept of every image of a batch.

    Attributes:
        images: one `ImageSelection` for each image and video, in the order of the prompts.
        kept_mask: (B, L) bool, prompt tokens that the language model reads.
    """

    images: list[ImageSelection]
    kept_mask: torch.Tensor


def describe(
    selection: Selection, layouts: Sequence[Layout], batch_rows: Sequence[int], questions: Sequence[Question]
) -> list[ImageSelection]:
    """Gathers the crops of each image into one record; waits for the device.

    The images are those that were selected from with `explain=True`, each in a row of the batch.
    """
    described = []
    for number, image in enumerate(layouts):
        tokens, shares, coverage, full, bound = [], [], [], [], []
        for part in selection.selected:
            for index, (crop, picks) in enumerate(zip(part.crops, part.picks, strict=True)):
                if crop.image == number and part.shares is not None and part.full_coverage is not None:
                    tokens.append(crop.tokens[part.greedy.indices[index, :picks].cpu()])
                    shares.append(part.shares[index, :, :picks].cpu())
                    coverage.append(float(part.greedy.coverage[index]))
                    full.append(float(part.full_coverage[index]))
                    bound.append(float(part.greedy.upper_bound[index]))
        indices, order = torch.cat([torch.zeros(0, dtype=torch.long), *tokens]).sort()
        ranks = torch.cat([torch.zeros(0, dtype=torch.long), *(torch.arange(len(each)) for each in tokens)])
        text_gain, vision_gain = torch.cat([torch.zeros(2, 0), *shares], dim=1)[:, order]
        described.append(
            ImageSelection(
                batch_row=batch_rows[number],
                num_tokens=len(image.filled),
                indices=indices,
                crop=image.crop[indices],
                row=image.row[indices],
                column=image.column[indices],
                pick_order=ranks[order],
                text_gain=text_gain,
                vision_gain=vision_gain,
                coverage=_mean(coverage),
                full_coverage=_mean(full),
                upper_bound=_mean(bound),
                is_video=image.is_video,
                words=questions[batch_rows[number]].words,
                word_ids=questions[batch_rows[number]].ids,
            )
        )
    return described


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
