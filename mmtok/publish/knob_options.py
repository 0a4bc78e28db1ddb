"""The knobs of `PruningOptions` and the lists of words as options of a command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from configuration_mmtok import PruningOptions, check_knob

from .ignored_text import INSTRUCTIONS, STOP_WORDS

# Knob -> how to read its text, and its help; the knobs left out describe the tokenizer and are derived.
_KNOBS: dict[str, tuple[str, str]] = {
    "vision_token_budget": ("N", "vision tokens kept per crop: a number, a share such as 0.25, or none to keep all"),
    "budget_scope": ("SCOPE", "crop: every crop has its own budget, as in the paper; image: the crops share it"),
    "text_coverage_weight": ("W", "weight of covering the question"),
    "vision_coverage_weight": ("W", "weight of covering the picture, the paper's alpha"),
    "text_temperature": ("T", "temperature of the text rows, the paper's tau_t"),
    "vision_temperature": ("T", "temperature of the vision rows, the paper's tau_v"),
    "exclude_padding": ("", "bands of one colour at the borders are no candidates (the paper's MMTok++)"),
    "keep_image_newline": ("", "keep LLaVA-NeXT's row separators"),
}


def add_knob_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each knob, and those for stop words and instructions."""
    defaults = PruningOptions()
    group = parser.add_argument_group("knobs", "what config.json says; every one can be overridden in a call")
    for name, (metavar, text) in _KNOBS.items():
        option, default = "--" + name.replace("_", "-"), getattr(defaults, name)
        text = f"{text} (default: {default})"
        if isinstance(default, bool):
            group.add_argument(option, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            group.add_argument(option, dest=name, metavar=metavar, type=_reader(name), default=None, help=text)
    words = parser.add_argument_group("text to cover")
    words.add_argument(
        "--stop-words",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="words that are not worth covering, in place of the paper's list: one a line, # begins a comment",
    )
    words.add_argument(
        "--instructions",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="sentences that are no part of a question, in place of the paper's: one a line, # begins a comment",
    )


def knobs_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The knobs that were given."""
    given = {name: getattr(arguments, name) for name in _KNOBS}
    return {name: _NONE_VALUES.get(value, value) for name, value in given.items() if value is not None}


def word_lists_of(arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """`stop_words` and `instructions`: from the files that were given, else the paper's.

    Raises:
        ValueError: a file that cannot be read as text.
    """
    return {
        "stop_words": STOP_WORDS if arguments.stop_words is None else _lines(arguments.stop_words),
        "instructions": INSTRUCTIONS if arguments.instructions is None else _lines(arguments.instructions),
    }


_KEEP_ALL = "none"
_NONE_VALUES: dict[Any, None] = {_KEEP_ALL: None}


def _reader(name: str) -> Any:
    """A function from an option's text to the value of the knob `name`."""

    def read(text: str) -> Any:
        value: Any = text
        if name == "vision_token_budget" and text.lower() == _KEEP_ALL:
            return _KEEP_ALL  # argparse takes None for an option that was not given
        if name != "budget_scope":
            try:
                value = int(text) if name == "vision_token_budget" and text.lstrip("+-").isdigit() else float(text)
            except ValueError:
                value = text
        try:
            check_knob(name, value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return value

    return read


def _lines(files: list[Path]) -> tuple[str, ...]:
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read as text: {error}") from error
    lines = (line.split("#")[0].strip() for text in texts for line in text.splitlines())
    return tuple(line for line in lines if line)
