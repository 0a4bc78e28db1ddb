"""Presets of options. They differ between the model families, so that they ask for a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from transformers import PretrainedConfig

from mmtok.hub.families import FAMILIES, PREFIX, Family
from mmtok.hub.options import PAPER_OPTIONS, PruningOptions


def preset_options(preset: str, model: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Any]:
    """The options that a preset sets for a model.

    Args:
        preset: of `PRESETS`. "paper" is the paper's reference code pick for pick, on every model; "recommended" is
            what is ahead in our measurements: the defaults, and for LLaVA-NeXT a budget that the crops of an image
            share, which is ahead from 2 tokens per crop on.
        model: folder or Hub id, of a stock or a staged model; only its `config.json` is read.
        revision: branch, tag or commit of the Hub repository.

    Raises:
        ValueError: an unknown preset, or a model of another family.
        OSError: there is no such model.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}: choose from {', '.join(PRESETS)}.")
    config, _ = PretrainedConfig.get_config_dict(os.fspath(model), revision=revision)
    # Stock checkpoints get what the models get that are made of them.
    model_type = str(config.get("model_type")).removeprefix(PREFIX)
    if model_type not in FAMILIES:
        raise ValueError(f"{model} is a {config.get('model_type')}: the presets are for {', '.join(FAMILIES)}.")
    return PRESETS[preset](FAMILIES[model_type])


def paper_options(family: Family) -> dict[str, Any]:
    """`PAPER_OPTIONS` as they are for a family: with its own defaults, and without what means nothing there."""
    own = {name: value for name, value in family.defaults.items() if name in PAPER_OPTIONS}
    neutral = {name: False for name in family.load_class().refused_options if name in PAPER_OPTIONS}
    return {**PAPER_OPTIONS, **own, **neutral}


def recommended_options(family: Family) -> dict[str, Any]:
    """A family's defaults, and what is ahead of them in our measurements."""
    defaults = PruningOptions(**family.defaults)
    return {**{name: getattr(defaults, name) for name in PAPER_OPTIONS}, **family.load_class().recommended_options}


PRESETS: dict[str, Callable[[Family], dict[str, Any]]] = {
    "paper": paper_options,
    "recommended": recommended_options,
}
