"""MMTok that covers the image alone: what the text rows add (paper, table 6)."""

from __future__ import annotations

from .mmtok import PAPER_SETTINGS, ModelPruning

VISION_ROWS = ModelPruning("vision rows", {**PAPER_SETTINGS, "text_coverage_weight": 0.0})
