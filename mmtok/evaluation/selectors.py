"""The pruning methods that a run compares. A new one is a `Selector` here and a line in `METHODS`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from PIL import Image
from torch.nn.functional import normalize

from configuration_mmtok import PruningOptions
from mmtok.hub.families import family_of
from mmtok.hub.options import PAPER_OPTIONS
from mmtok.publish.recipe import PRESETS

if TYPE_CHECKING:
    from mmtok.hub.images import Layout

    from .checkpoint import Checkpoint

Need = Literal["cls_attention", "language_attention"]


@dataclass(frozen=True)
class CropView:
    """What a selector may look at of one crop: n vision tokens, and the m text tokens of the question to cover.

    Attributes:
        text: (m, d) float, rows of the language model's `embed_tokens`; m may be 0.
        vision: (n, d) float, vision tokens behind the projector.
        raw_vision: (n, d_raw) float, the same tokens before the projector.
        row, column: (n,) int64, place of each token in the crop's grid of patches, -1 for no place.
        seed: what a random method draws from: the same for every method and budget of a question.
        cls_attention: (n,) float, attention that the vision tower's class token pays to each token, a mean over the
            heads of the layer whose features LLaVA reads. Only where the selector needs "cls_attention".
        keys: (n, d_key) float, keys of the same layer, a mean over the heads. Comes with `cls_attention`.
        language_attention: (n,) float, attention that the prompt's last token pays to each token in the language
            model's second layer, a mean over the heads. Only where the selector needs "language_attention".
    """

    text: torch.Tensor
    vision: torch.Tensor
    raw_vision: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    seed: int = 0
    cls_attention: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    language_attention: torch.Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """What a selector keeps of a crop.

    Attributes:
        indices: (k,) int64, positions of the kept tokens among the crop's tokens; no position twice.
        raw_vision: (k, d_raw), features before the projector that take the place of the kept tokens' own, in the order
            of `indices`; None where tokens are kept as they are.
    """

    indices: torch.Tensor
    raw_vision: torch.Tensor | None = None


class Selector(ABC):
    """A pruning method: one class, one overridden function."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def select(self, crop: CropView, budget: int) -> Kept:
        """Picks `budget` (at least 1) of the crop's tokens, or all of them where it has no more."""

    def select_together(self, crops: Sequence[CropView], budget: int) -> list[Kept]:
        """Picks a mean of `budget` tokens of the crops of one image; overridden where crops differ in their numbers."""
        return [self.select(crop, budget) for crop in crops]


def required(values: torch.Tensor | None, name: Need, selector: Selector) -> torch.Tensor:
    """The values that a selector declared it needs.

    Raises:
        ValueError: the crop comes without them.
    """
    if values is None:
        raise ValueError(f"The selector {selector.name!r} needs {name}, which this crop comes without.")
    return values


@dataclass(frozen=True)
class ModelPruning:
    """A method that is not a selector: the model prunes in its own `generate`, with options set for the call.

    Attributes:
        name: what results call it.
        options: of `PruningOptions`, all but `vision_token_budget`.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


# MMTok (Dong et al., ICLR 2026, arXiv 2508.18264) as the model itself runs it.
# Written out, so that the name means the paper's settings also on a model that was staged with others.
# The defaults are the paper's; what text is covered is read before, and is not a setting of the selection.
PAPER_SETTINGS: dict[str, Any] = {**PAPER_OPTIONS, "padding": "stock"}

MMTOK = ModelPruning("MMTok", PAPER_SETTINGS)


# MMTok that covers the question alone, and the image alone: what the other rows add (paper, table 6).
TEXT_ROWS = ModelPruning("text rows", {**PAPER_SETTINGS, "vision_coverage_weight": 0.0})
VISION_ROWS = ModelPruning("vision rows", {**PAPER_SETTINGS, "text_coverage_weight": 0.0})


class DivPrune(Selector):
    """Max-min diversity of the projected vision tokens, greedily.

    DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175).

    The distance of two tokens is 1 - cosine. The first pick is the token whose nearest neighbour is farthest away;
    each further pick is the token whose nearest picked token is farthest away. The question plays no part.
    """

    name = "DivPrune"

    def select(self, crop: CropView, budget: int) -> Kept:
        directions = normalize(crop.vision.float(), dim=-1)
        distance = 1 - directions @ directions.T
        return Kept(max_min_diversity(distance, min(budget, len(directions))))


def max_min_diversity(distance: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy max-min diversity.

    Args:
        distance: (n, n) float, symmetric.
        count: picks, from 1 to n.

    Returns:
        (count,) int64 in the order of the picks; ties go to the smallest index.
    """
    to_others = distance.masked_fill(torch.eye(len(distance), dtype=torch.bool, device=distance.device), torch.inf)
    # A single token has no neighbour, and nothing to be far from.
    nearest = to_others.amin(0)
    picked = [int(nearest.argmax())]
    nearest = distance[picked[0]].clone()
    for _ in range(count - 1):
        nearest[picked[-1]] = -torch.inf
        picked.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distance[picked[-1]])
    return torch.tensor(picked, device=distance.device)


# What is left of a kernel of float32 cosines, relative to its diagonal, counts as zero below this.
ROUNDING = 1e-6


class CDPruner(Selector):
    """MAP of a DPP with the kernel diag(r) L diag(r), greedily.

    CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): a determinantal point process that knows the question.

    L holds the cosines of the projected vision tokens; r is each token's relevance to the question, the mean cosine to
    the text, scaled to 0 ... 1 over the tokens. The paper takes the relevance of LLaVA from CLIP's text tower, which
    LLaVA's checkpoints don't hold, and for models without one from the language model's own embeddings: those are
    used here, for the same words that the other methods see.
    """

    name = "CDPruner"

    def select(self, crop: CropView, budget: int) -> Kept:
        vision = normalize(crop.vision.float(), dim=-1)
        relevance = torch.ones(len(vision), device=vision.device)
        if len(crop.text):
            cosine = (vision @ normalize(crop.text.float(), dim=-1).T).mean(-1)
            low, high = cosine.aminmax()
            relevance = (cosine - low + 1e-6) / (high - low + 1e-6)
        kernel = relevance[:, None] * (vision @ vision.T) * relevance
        return Kept(greedy_map(kernel, min(budget, len(vision))))


def greedy_map(kernel: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy MAP of a determinantal point process: each pick has the largest determinant with those before it.

    A Cholesky factor grows by one row a pick (Chen, Zhang and Zhou, NeurIPS 2018).

    Args:
        kernel: (n, n) float, positive semidefinite.
        count: picks, from 1 to n.

    Returns:
        (count,) int64 in the order of the picks. Beyond the kernel's rank every determinant is 0; the picks there have
        the largest of what rounding leaves.
    """
    kernel = kernel.double()
    noise = ROUNDING * kernel.diagonal().max()
    factors = kernel.new_zeros(count, len(kernel))
    remaining = kernel.diagonal().clone()
    picked: list[int] = []
    for step in range(count):
        index = int(remaining.argmax())
        picked.append(index)
        # Dividing by a residual that is only rounding would let the factors grow without end.
        if remaining[index] > noise:
            projection = kernel[index] - factors[:step, index] @ factors[:step]
            factors[step] = projection / remaining[index].sqrt()
            remaining = remaining - factors[step] ** 2
        remaining[picked] = -torch.inf
    return torch.tensor(picked, device=kernel.device)


# 10 of 64, 20 of 128 and 30 of 192 tokens in the paper.
_CONTEXTUAL_SHARE = 10 / 64


class VisionZip(Selector):
    """Dominant tokens by CLS attention, the others merged into a few contextual ones.

    VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467).

    Dominant tokens have the most attention of the tower's class token in the layer that LLaVA reads. Of the rest, every
    (rest / contextual)-th token is a target; every other token joins the target with the most similar key, and each
    group is replaced by its mean before the projector. The question plays no part.
    """

    name = "VisionZip"
    needs = frozenset({"cls_attention"})

    def select(self, crop: CropView, budget: int) -> Kept:
        attention = required(crop.cls_attention, "cls_attention", self)
        keys = required(crop.keys, "cls_attention", self)
        total = len(attention)
        if budget >= total:
            return Kept(torch.arange(total, device=attention.device))
        contextual = round(budget * _CONTEXTUAL_SHARE)
        dominant = attention.topk(budget - contextual).indices.sort().values
        if contextual == 0:
            return Kept(dominant)
        rest = torch.ones(total, dtype=torch.bool, device=attention.device)
        rest[dominant] = False
        others = torch.nonzero(rest)[:, 0]
        targets = others[:: max(1, len(others) // contextual)][:contextual]
        merged = _merged(crop.raw_vision, normalize(keys.float(), dim=-1), others, targets)
        return Kept(torch.cat((dominant, targets)), torch.cat((crop.raw_vision[dominant], merged)))


def _merged(features: torch.Tensor, keys: torch.Tensor, others: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(contextual, d_raw): the mean of each target's group; a target always belongs to its own."""
    group = (keys[others] @ keys[targets].T).argmax(-1)
    for index, target in enumerate(targets):
        group[others == target] = index
    sums = features.new_zeros(len(targets), features.shape[1]).index_add(0, group, features[others])
    return sums / torch.bincount(group, minlength=len(targets))[:, None].to(sums.dtype)


class FastV(Selector):
    """The tokens with the most attention of the prompt's last token in the language model's second layer.

    FastV (Chen et al., ECCV 2024, arXiv 2403.06764).

    The original lets all tokens through the first two layers and drops the others behind them. Here they are dropped
    before the first, so that every method's answer is read from the same number of tokens; the attention still comes
    from the full prompt, whose cost is not saved.
    """

    name = "FastV"
    needs = frozenset({"language_attention"})

    def select(self, crop: CropView, budget: int) -> Kept:
        attention = required(crop.language_attention, "language_attention", self)
        return Kept(attention.topk(min(budget, len(attention))).indices)


class UniformGrid(Selector):
    """Tokens spread evenly: over rows first, then within each row. Tokens without a grid are spread in their order."""

    name = "uniform"

    def select(self, crop: CropView, budget: int) -> Kept:
        total = len(crop.vision)
        budget = min(budget, total)
        placed = bool((crop.row >= 0).all())
        lines = [torch.nonzero(crop.row == row)[:, 0] for row in crop.row.unique()] if placed else []
        widest = max((len(line) for line in lines), default=0)
        if not lines or any(len(line) != widest for line in lines):
            return Kept(_spread(budget, total).to(crop.vision.device))
        used = min(len(lines), max(round(math.sqrt(budget * len(lines) / widest)), math.ceil(budget / widest)))
        chosen = [lines[index] for index in _spread(used, len(lines)).tolist()]
        shares = [budget // used + (index < budget % used) for index in range(used)]
        picked = [line[_spread(share, widest)] for line, share in zip(chosen, shares, strict=True)]
        return Kept(torch.cat(picked).to(crop.vision.device))


def _spread(count: int, total: int) -> torch.Tensor:
    """(count,) int64: the middles of `count` equal parts of `total` places."""
    return ((torch.arange(count) + 0.5) * total / count).long()


class RandomTokens(Selector):
    """Tokens drawn without replacement, seeded by the question; a smaller budget keeps a part of a larger one's."""

    name = "random"

    def select(self, crop: CropView, budget: int) -> Kept:
        generator = torch.Generator().manual_seed(crop.seed)
        order = torch.randperm(len(crop.vision), generator=generator)
        return Kept(order[:budget].to(crop.vision.device))


@dataclass(frozen=True)
class Resizing:
    """A method that is not a selector: the processor gets a smaller image, and the language model reads all of it."""

    name: str = "resized"


RESIZED = Resizing()


def why_not_resized(model_class: Any, config: Any) -> str:
    """A sentence that says why a smaller image has no fewer tokens; "" where it has."""
    if hasattr(model_class.geometry_class, "side"):
        return ""
    return (
        f"{RESIZED.name}: a crop of {family_of(config.model_type).title} has as many tokens whatever the size of the "
        "image, so that a smaller image is not a baseline. It is one where the tokens follow the size, as in Qwen-VL."
    )


def shrunk_grid(rows: int, columns: int, tokens: int) -> tuple[int, int]:
    """The largest grid of at most so many tokens that has about the shape of one of `rows` x `columns`."""
    scale = min(1.0, math.sqrt(tokens / (rows * columns)))
    fewer = max(1, min(tokens, round(rows * scale)))
    return fewer, max(1, min(tokens // fewer, math.ceil(columns * scale)))


def shrunk_inputs(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    images: Sequence[Image.Image],
    layouts: Sequence[Layout],
    budget: int | float,
) -> dict[str, torch.Tensor]:
    """A batch as `Checkpoint.inputs` makes it, of smaller images.

    Args:
        layouts: of the images, where they are not shrunk.
        budget: the most tokens of an image, or the largest share of its own as a float.
    """
    options, side, smaller = PruningOptions(vision_token_budget=budget), checkpoint.model.geometry.side, []
    for image, layout in zip(images, layouts, strict=True):
        rows, columns = (int(part.max()) + 1 for part in (layout.row, layout.column))
        rows, columns = shrunk_grid(rows, columns, options.budget_of(rows * columns))
        smaller.append(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    # The image has its size by now, which a processor with a least one would enlarge.
    processor = copy(checkpoint.processor)
    processor.image_processor = copy(processor.image_processor)
    processor.image_processor.do_resize = False
    return replace(checkpoint, processor=processor).inputs(texts, smaller)


Method: TypeAlias = Selector | ModelPruning | Resizing

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        MMTOK,
        TEXT_ROWS,
        VISION_ROWS,
        DivPrune(),
        CDPruner(),
        VisionZip(),
        FastV(),
        UniformGrid(),
        RandomTokens(),
    )
}

# What a run can name: those that are compared by default, resizing, which not every model can, and presets, which
# depend on the model.
NAMED_METHODS = (*METHODS, RESIZED.name, *PRESETS)
