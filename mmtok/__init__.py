"""MMTok: keeps the few vision tokens that together cover the question and the image (arXiv 2508.18264)."""

from __future__ import annotations

from .hub.coverage import GreedySelection, coverage_value, greedy_coverage, marginal_gains
from .hub.objective import coverage_matrix

__version__ = "0.1.0"

__all__ = ["GreedySelection", "coverage_matrix", "coverage_value", "greedy_coverage", "marginal_gains", "__version__"]
