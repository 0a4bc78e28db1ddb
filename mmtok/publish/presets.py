"""Presets of options: `paper`, and `recommended`, which differs between the model families and asks for a model."""

from __future__ import annotations

import os
from typing import Any

from configuration_mmtok import RECOMMENDED_OPTIONS, MMTokLlavaConfig
from mmtok.hub.options import PAPER_OPTIONS

from .families import FAMILIES, PREFIX

PRESETS = ("paper", "recommended")


def preset_options(preset: str, model: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Any]:
    """The options that a preset sets for a model.

    Args:
        preset: of `PRESETS`. "paper" is the paper's reference code pick for pick, on every model.
        model: folder or Hub id, of a stock or a staged model; only its `config.json` is read.
        revision: branch, tag or commit of the Hub repository.

    Raises:
        ValueError: an unknown preset, or a model of another family.
        OSError: there is no such model.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}: choose from {', '.join(PRESETS)}.")
    if preset == "paper":
        return PAPER_OPTIONS
    # Any configuration class reads the file of any other; their common base has two names, by the version.
    config, _ = MMTokLlavaConfig.get_config_dict(os.fspath(model), revision=revision)
    model_type = config.get("model_type")
    # Stock checkpoints are recommended what the models are that are made of them.
    family = PREFIX + model_type if model_type in FAMILIES else model_type
    if family not in RECOMMENDED_OPTIONS:
        raise ValueError(f"{model} is a {model_type}: the preset is for LLaVA-1.5 and LLaVA-NeXT.")
    return RECOMMENDED_OPTIONS[family]
