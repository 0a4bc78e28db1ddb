"""MMTok that covers the question alone: what the vision rows add (paper, table 6)."""

from __future__ import annotations

from .mmtok import PAPER_SETTINGS, ModelPruning

TEXT_ROWS = ModelPruning("text rows", {**PAPER_SETTINGS, "vision_coverage_weight": 0.0})
