"""The table of budgets on a card: how many vision tokens of images of some sizes each budget keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmtok.hub.families import family_of
from mmtok.hub.images import Geometry
from mmtok.hub.options import PruningOptions

_COUNTS = (192, 128, 64, 32, 16, 8, 4)
_SHARES = (0.5, 0.2, 0.1, 0.05)


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


def budget_table(config: Mapping[str, Any]) -> BudgetTable:
    """The table of a model.

    Args:
        config: the content of its `config.json`, that of a stock checkpoint or of a staged folder.
    """
    geometry = geometry_of(config)
    layouts = {name: geometry.layout(size) for name, size in geometry.examples.items()}
    images = {name: tuple(each.crop[each.crop >= 0].bincount().tolist()) for name, each in layouts.items()}
    separators = [int((each.source < 0).sum()) for each in layouts.values()]
    stay = "they stay" if config.get("keep_image_newline") else "a pruned image has none"
    note = f"Without pruning there are row separators besides, up to {max(separators)} in these images; {stay}."
    same_crops = len({tokens for crops in images.values() for tokens in crops}) == 1
    return BudgetTable(geometry.about, images, same_crops, note if any(separators) else "")


def geometry_of(config: Mapping[str, Any]) -> Geometry:
    """What is known of the images of a model from the content of its `config.json`."""
    model_class = family_of(config["model_type"]).load_class()
    given = {name: value for name, value in config.items() if name not in ("model_type", "auto_map")}
    return model_class.geometry_class(model_class.config_class.from_dict(given))
