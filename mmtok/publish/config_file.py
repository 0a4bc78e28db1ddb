"""`config.json` of a publication: the base's, with another model type, the code to load and the options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from configuration_mmtok import OPTION_NAMES, PruningOptions
from mmtok.hub.arguments import require_meaningful

from .base import BaseCheckpoint
from .families import PREFIX


def check_options(pruning_options: Mapping[str, Any]) -> None:
    """Raises a ValueError that names an unknown option, or a value out of range."""
    unknown = sorted(set(pruning_options) - set(OPTION_NAMES))
    if unknown:
        raise ValueError(f"There is no option {unknown[0]!r}: the options are {', '.join(OPTION_NAMES)}.")
    PruningOptions(**pruning_options)


def published_config(base: BaseCheckpoint, pruning_options: Mapping[str, Any]) -> dict[str, Any]:
    """The base's configuration, every field of it, for the class that prunes.

    Args:
        base: the checkpoint.
        pruning_options: any of `PruningOptions`; the others get the default of the model's family.

    Raises:
        ValueError: an unknown option, or a value out of range.
    """
    check_options(pruning_options)
    options = PruningOptions(**{**base.family.default_options, **pruning_options})
    require_meaningful(options, base.family.load_class().refused_options, base.family.title)
    return {
        **base.config,
        "architectures": [base.family.model_class],
        "auto_map": base.family.auto_map,
        "model_type": PREFIX + base.config["model_type"],
        **{name: getattr(options, name) for name in OPTION_NAMES},
    }


def as_json(content: Mapping[str, Any]) -> str:
    """JSON with two spaces of indentation and lists of numbers on one line, so that a person can read it."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # A text in JSON never holds a line break, so that only lists match.
    return re.sub(r"\[\n\s+([-+\d.eE,\s]+?)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"
