"""The keyword arguments of one call: its options, those of its images, and names that are misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from .options import OPTION_NAMES, PruningOptions, options_within


def call_options(arguments: dict[str, Any], config: Any, *generation_configs: Any) -> PruningOptions:
    """The options of one call.

    Args:
        arguments: keyword arguments of the call, out of which the options are taken; they have the last word.
        config: the model's configuration, which has the first.
        generation_configs: generation configurations, the one with the last word first; None is left out.

    Raises:
        ValueError: an option out of range, or an argument that is nearly the name of an option.
    """
    overrides: dict[str, Any] = {}
    for given in (*map(options_within, reversed(generation_configs)), _taken_options(arguments)):
        if "vision_token_budget" in given:
            overrides.pop("vision_token_share", None)
        overrides.update(given)
    if not overrides:
        return PruningOptions.from_config(config)
    return PruningOptions.from_config(config, **overrides)


def _taken_options(arguments: dict[str, Any]) -> dict[str, Any]:
    for name in arguments:
        if name not in OPTION_NAMES and (near := _near(name)):
            raise ValueError(f"{name} is not an argument: did you mean {near}?")
    return {name: arguments.pop(name) for name in OPTION_NAMES if name in arguments}


@lru_cache(maxsize=256)
def _near(name: str) -> str:
    """The option that `name` may be a misspelling of, or ""."""
    return next(iter(difflib.get_close_matches(name, OPTION_NAMES, 1, 0.9)), "")


def taken(arguments: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Takes arguments of these names out of `arguments`, and returns those that are not None."""
    found = {name: arguments.pop(name) for name in names if name in arguments}
    return {name: value for name, value in found.items() if value is not None}


def require_meaningful(options: PruningOptions, refused: Sequence[str], owner: str) -> None:
    """Raises a ValueError for an option that is set and means nothing for `owner`, a class or family of models."""
    for name in refused:
        if getattr(options, name):
            raise ValueError(f"{name} is {getattr(options, name)!r}, which means nothing for {owner}: leave it out.")


def require_known(arguments: Collection[str], known: Collection[str]) -> None:
    """Raises a ValueError for arguments that are neither inputs nor options."""
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"{unknown[0]} is neither an input nor an option: the options are {', '.join(OPTION_NAMES)}.")
