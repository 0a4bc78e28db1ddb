"""The table of budgets on a card: how many vision tokens of images of some sizes each budget keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmtok.hub.options import PruningOptions

_COUNTS = (192, 128, 64, 32, 16, 8, 4)
_SHARES = (0.5, 0.2, 0.1, 0.05)
_EXAMPLES = 4
# Columns and rows of vision tokens of the examples of images that keep their size.
_GRIDS = ((16, 16), (32, 24), (48, 36), (64, 64))


@dataclass(frozen=True)
class BudgetTable:
    """Budgets of one model, in its own numbers.

    Attributes:
        about: what a crop is, as sentences.
        images: name of an image -> vision tokens of each of its crops.
        same_crops: whether all crops have equally many tokens; budgets are numbers then and shares otherwise.
        note: on what the figures leave out; "" for nothing.
    """

    about: str
    images: dict[str, tuple[int, ...]] = field(default_factory=dict)
    same_crops: bool = True
    note: str = ""

    @property
    def tokens_per_crop(self) -> int | None:
        """None where crops differ."""
        return next(iter(self.images.values()))[0] if self.same_crops else None

    @property
    def totals(self) -> list[int]:
        """Vision tokens of each image without pruning."""
        return [sum(crops) for crops in self.images.values()]

    def rows(self, configured: int | float | None) -> list[dict[str, Any]]:
        """For each budget: vision tokens that stay of each image, and their share.

        Args:
            configured: the budget of the configuration, which has a row too.
        """
        budgets: set[int | float] = set(_COUNTS if self.same_crops else _SHARES)
        full = self.tokens_per_crop
        if full is not None and isinstance(configured, float):
            configured = round(configured * full)
        if configured is not None:
            budgets.add(configured)
        if full is not None:
            budgets = {budget for budget in budgets if budget < full}
        return [self._row(budget, budget == configured) for budget in sorted(budgets, key=self._order, reverse=True)]

    def _row(self, budget: int | float, configured: bool) -> dict[str, Any]:
        options = PruningOptions(vision_token_budget=budget)
        kept = [sum(map(options.budget_of, crops)) for crops in self.images.values()]
        share = 100 * (budget if isinstance(budget, float) else kept[0] / self.totals[0])
        return {"budget": budget, "configured": configured, "kept": kept, "share": f"{share:.1f} %"}

    @staticmethod
    def _order(budget: int | float) -> tuple[bool, float]:
        return isinstance(budget, int), budget


def budget_table(images: str, config: Mapping[str, Any]) -> BudgetTable:
    """The table of a model.

    Args:
        images: `Family.images`.
        config: its configuration.
    """
    return _TABLES[images](config)


def _grid(config: Mapping[str, Any]) -> int:
    """Patches along the side of a crop."""
    vision = config["vision_config"]
    return int(vision["image_size"] // vision["patch_size"])


def _one_crop(config: Mapping[str, Any]) -> BudgetTable:
    tokens = _grid(config) ** 2
    return BudgetTable(f"One crop is {tokens} vision tokens. An image is one crop.", {"1 crop": (tokens,)})


def _tiles(config: Mapping[str, Any]) -> BudgetTable:
    size, tokens = config["vision_config"]["image_size"], _grid(config) ** 2
    pinpoints = config["image_grid_pinpoints"]
    counts = sorted({1 + (height // size) * (width // size) for height, width in pinpoints})
    about = (
        f"One crop is {tokens} vision tokens. An image is {', '.join(map(str, counts))} crops by its shape: itself and "
        "its tiles.\nThe tiles of an image that does not fill them have fewer tokens; the figures are the most there "
        "can be."
    )
    separators = max((height for height, width in pinpoints if height == width), default=0) // size * _grid(config)
    stay = "they stay" if config.get("keep_image_newline") else "a pruned image has none"
    note = f"Without pruning there are row separators besides, {separators} for a square image; {stay}."
    images = {f"{count} crop{'s' if count > 1 else ''}": (tokens,) * count for count in counts}
    return BudgetTable(about, images, note=note if separators else "")


def _mosaic(config: Mapping[str, Any]) -> BudgetTable:
    size, grid = config["vision_config"]["image_size"], _grid(config)
    squares = sorted({height for height, width in config["image_grid_pinpoints"] if height == width})
    images: dict[str, tuple[int, ...]] = {}
    for side in [*squares[: _EXAMPLES - 1], *squares[_EXAMPLES - 1 :][-1:]]:
        rows = columns = side // size * grid
        rows, columns = mosaic_grid(rows, columns, grid, config.get("vision_aspect_ratio", "anyres_max_9"))
        images[f"{side} x {side} pixels"] = (grid**2, rows * columns)
    about = (
        f"An image is two crops: the whole image, {grid**2} vision tokens, and the mosaic of its tiles, whose size is "
        "that of the image.\nA number keeps as many tokens of both, a share as large a part."
    )
    stay = "they stay" if config.get("keep_image_newline") else "a pruned image has none"
    note = f"Without pruning there is a row separator besides for each row of the mosaic; {stay}."
    return BudgetTable(about, images, same_crops=False, note=note)


def mosaic_grid(rows: int, columns: int, side: int, aspect_ratio: str) -> tuple[int, int]:
    """Rows and columns of tokens of a LLaVA-OneVision mosaic as the language model reads it.

    Args:
        rows, columns: of the unpadded mosaic.
        side: patches along the side of a crop.
        aspect_ratio: `vision_aspect_ratio`; behind "anyres_max_" stands how many crops are the most.
    """
    most = int(aspect_ratio.removeprefix("anyres_max_"))
    ratio = (rows * columns / (most * side**2)) ** 0.5
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def _grids(config: Mapping[str, Any]) -> BudgetTable:
    vision = config["vision_config"]
    side = vision["patch_size"] * vision.get("spatial_merge_size", 2)
    images: dict[str, tuple[int, ...]] = {
        f"{width * side} x {height * side} pixels": (width * height,) for width, height in _GRIDS
    }
    about = (
        f"An image is one crop of its own size, scaled to multiples of {side} pixels: a vision token for each {side} x "
        f"{side} pixels.\nA number keeps as many tokens of every image, a share as large a part."
    )
    return BudgetTable(about, images, same_crops=False)


_TABLES: dict[str, Callable[[Mapping[str, Any]], BudgetTable]] = {
    "crop": _one_crop,
    "tiles": _tiles,
    "mosaic": _mosaic,
    "grid": _grids,
}
