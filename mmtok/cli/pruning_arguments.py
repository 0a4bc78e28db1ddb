"""The fields of `PruningOptions` as options of a command.

A new field is an option of every command with its own help text; nothing is added here.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import Field, fields
from typing import Any

from mmtok.hub.options import PruningOptions, check_option, check_weights

_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(PruningOptions)}


def add_pruning_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an argument for each option of a model that is made."""
    group = parser.add_argument_group("pruning options", "what config.json says; every one can be overridden in a call")
    _add_options(group, {name: f" (default: {each.default})" for name, each in _FIELDS.items()})


def add_call_options(
    parser: argparse.ArgumentParser, description: str = "for these calls, in place of the model's own"
) -> None:
    """Adds an argument for each option of calls, but the budget, for which commands have one of their own."""
    group = parser.add_argument_group("pruning options", description)
    _add_options(group, {name: "" for name in _FIELDS if name != "vision_token_budget"})


def _add_options(group: Any, defaults: dict[str, str]) -> None:
    """`--preset` and an argument for each option, with what its help says of the default."""
    group.add_argument(
        "--preset",
        metavar="NAME",
        type=_preset,
        help="sets several options, beside which others can be given: paper is the selection of the paper's code, pick "
        "for pick; recommended is what is ahead in our measurements",
    )
    for name, suffix in defaults.items():
        option, text = "--" + name.replace("_", "-"), (_FIELDS[name].metadata["help"] + suffix).replace("%", "%%")
        if isinstance(_FIELDS[name].default, bool):
            group.add_argument(option, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            group.add_argument(option, dest=name, metavar="VALUE", type=_reader(name), default=None, help=text)


def _preset(text: str) -> str:
    from mmtok.publish.presets import PRESETS

    if text not in PRESETS:
        raise argparse.ArgumentTypeError(f"there is no preset {text!r}: choose from {', '.join(PRESETS)}.")
    return text


def pruning_options_of(
    arguments: argparse.Namespace, model: str | os.PathLike[str], revision: str | None = None
) -> dict[str, Any]:
    """The options that were given, and those of the preset that were not.

    Args:
        arguments: of a command with these options.
        model: the model that they are for, folder or Hub id.
        revision: branch, tag or commit of the Hub repository.

    Raises:
        ValueError: both weights are 0, or a preset for a model of another family.
        OSError: a preset for a model that is not there.
    """
    given = {name: getattr(arguments, name, None) for name in _FIELDS}
    pruning_options: dict[str, Any] = {
        name: (None if value == _NONE else value) for name, value in given.items() if value is not None
    }
    check_weights(pruning_options.get("text_coverage_weight", 1), pruning_options.get("vision_coverage_weight", 1))
    if not arguments.preset:
        return pruning_options
    from mmtok.publish.presets import preset_options

    return {**preset_options(arguments.preset, model, revision=revision), **pruning_options}


_NONE = "none"


def _reader(name: str) -> Any:
    """A function from the text of an argument to the value of the option `name`."""
    default = _FIELDS[name].default

    def read(text: str) -> Any:
        value: Any = text
        words = (_NONE, "all") if name == "vision_token_budget" else (_NONE,)
        if text.lower() in words and _accepts_none(name):
            return _NONE  # argparse takes None for an option that was not given
        if name == "question_format":
            try:
                value = json.loads(text)
            except ValueError as error:
                raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
        elif not isinstance(default, str) and name != "covered_text":
            try:
                value = int(text) if not isinstance(default, float) and text.lstrip("+-").isdigit() else float(text)
            except ValueError:
                value = text
        try:
            check_option(name, value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return value

    return read


def _accepts_none(name: str) -> bool:
    try:
        check_option(name, None)
    except ValueError:
        return False
    return True
