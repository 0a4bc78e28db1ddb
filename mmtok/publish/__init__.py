"""Publishing a stock checkpoint as a model repository that prunes: stage, describe, push and verify it."""

from __future__ import annotations

from .base import BaseCheckpoint, open_base
from .card import CardFacts, Measurements, render_card
from .clean_process import CheckFailed
from .generate_repo import StagedGenerate, push_generate, stage_generate
from .hub import PublishError
from .push import PushReport, push
from .recipe import Destination, Recipe
from .repository import published_code
from .stage import StagedModel, stage
from .verify import Verification, verify

__all__ = [
    "BaseCheckpoint",
    "CardFacts",
    "CheckFailed",
    "Destination",
    "Measurements",
    "PublishError",
    "PushReport",
    "Recipe",
    "StagedGenerate",
    "StagedModel",
    "Verification",
    "open_base",
    "published_code",
    "push",
    "push_generate",
    "render_card",
    "stage",
    "stage_generate",
    "verify",
]
