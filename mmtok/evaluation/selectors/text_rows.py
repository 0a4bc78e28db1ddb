"""MMTok that covers the question alone: what the vision rows add (paper, table 6)."""

from __future__ import annotations

from .mmtok import PAPER_KNOBS, ModelPruning

TEXT_ROWS = ModelPruning("text rows", {**PAPER_KNOBS, "vision_coverage_weight": 0.0})
