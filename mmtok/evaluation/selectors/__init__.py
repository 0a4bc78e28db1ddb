"""The pruning methods that a run compares. A new one is a file with a `Selector` and one line in `METHODS`."""

from __future__ import annotations

from typing import TypeAlias

from mmtok.publish.recipe import PRESETS

from ..resizing import RESIZED, Resizing
from .base import CropView, Kept, Need, Selector
from .cdpruner import CDPruner
from .divprune import DivPrune
from .fastv import FastV
from .mmtok import MMTOK, PAPER_SETTINGS, ModelPruning
from .random import RandomTokens
from .text_rows import TEXT_ROWS
from .uniform import UniformGrid
from .vision_rows import VISION_ROWS
from .visionzip import VisionZip

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

__all__ = [
    "CDPruner",
    "CropView",
    "DivPrune",
    "FastV",
    "Kept",
    "METHODS",
    "NAMED_METHODS",
    "MMTOK",
    "Method",
    "ModelPruning",
    "Need",
    "PAPER_SETTINGS",
    "RESIZED",
    "RandomTokens",
    "Resizing",
    "Selector",
    "TEXT_ROWS",
    "UniformGrid",
    "VISION_ROWS",
    "VisionZip",
]
