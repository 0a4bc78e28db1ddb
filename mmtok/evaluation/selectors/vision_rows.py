"""MMTok that covers the picture alone: what the text rows add (paper, table 6)."""

from __future__ import annotations

from .mmtok import PAPER_KNOBS, ModelPruning

VISION_ROWS = ModelPruning("vision rows", {**PAPER_KNOBS, "text_coverage_weight": 0.0})
