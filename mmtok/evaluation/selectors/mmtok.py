"""MMTok (Dong et al., ICLR 2026, arXiv 2508.18264), as the model itself runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configuration_mmtok import RECOMMENDED_KNOBS


@dataclass(frozen=True)
class ModelPruning:
    """A method that is no selector: the model prunes in its own `generate`, with knobs set for the call.

    Attributes:
        name: what results call it.
        knobs: of `PruningOptions`, all but `vision_token_budget`.
    """

    name: str
    knobs: Mapping[str, Any] = field(default_factory=dict)


# Written out, so that the name means the paper's settings also on a model that was staged with others.
PAPER_KNOBS: dict[str, Any] = {
    "budget_scope": "crop",
    "text_coverage_weight": 1.0,
    "vision_coverage_weight": 0.5,
    "text_temperature": 0.02,
    "vision_temperature": 0.2,
    "exclude_padding": False,
    "keep_image_newline": False,
    "coverage_target": None,
    "center_features": False,
    "text_temperature_unit": "cosine",
}

MMTOK = ModelPruning("MMTok", PAPER_KNOBS)
RECOMMENDED = {
    model_type: ModelPruning("recommended", {**PAPER_KNOBS, **knobs}) for model_type, knobs in RECOMMENDED_KNOBS.items()
}
