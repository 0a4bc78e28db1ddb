"""MMTok (Dong et al., ICLR 2026, arXiv 2508.18264), as the model itself runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from configuration_mmtok import PruningOptions


@dataclass(frozen=True)
class ModelPruning:
    """A method that is no selector: the model prunes in its own `generate`, with options set for the call.

    Attributes:
        name: what results call it.
        options: of `PruningOptions`, all but `vision_token_budget`.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


# Written out, so that the name means the paper's settings also on a model that was staged with others.
# The defaults are the paper's; what text is covered is read before, and is not a setting of the selection.
PAPER_SETTINGS: dict[str, Any] = {
    option.name: option.default
    for option in fields(PruningOptions)
    if option.name not in ("vision_token_budget", "covered_text", "question_format")
}

MMTOK = ModelPruning("MMTok", PAPER_SETTINGS)
