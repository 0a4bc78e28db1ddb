"""The options of one pruning: their defaults, what is accepted, their help texts, and those of one call.

A new option is one field here and the code that uses it: configuration, `generate`, `forward`, the command line, the
endpoint handler and the table in the documentation read the fields.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

from .question import QuestionFormat, is_text


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's, which JSON can hold."""
    if isinstance(value, (bool, int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _in_range(value: Any) -> bool:
    """Whether float32 can tell values apart behind the products with it."""
    return _is_number(value) and 1e-6 <= value <= 1e6


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


# Whether a value is acceptable, and what is, for the message.
Check = tuple[Callable[[Any], bool], str]
WEIGHT: Check = (
    lambda value: _in_range(value) or (_is_number(value) and value == 0),
    "0, or a number from 1e-6 to 1e6",
)
TEMPERATURE: Check = (_in_range, "a number from 1e-6 to 1e6")


def _option(default: Any, check: Check, text: str) -> Any:
    """A field: its default, what is accepted, and its help."""
    return field(default=default, metadata={"check": check, "help": text})


@dataclass(frozen=True)
class PruningOptions:
    """The options of one pruning: those of the configuration, with the overrides of one call.

    Raises:
        ValueError: a value out of range; the message names the option, the value and what is accepted.
    """

    vision_token_budget: int | float | None = _option(
        64,
        (
            lambda value: value is None or _is_count(value) or (isinstance(value, float) and _is_share(value)),
            "a number of tokens of at least 1, a share of them as a float in (0, 1], or None to keep every token",
        ),
        "vision tokens kept of each crop (a LLaVA-1.5 image is one crop, a LLaVA-NeXT image up to five, a video one a "
        "frame): a number of tokens, or a share of them as a float in (0, 1]; None keeps all",
    )
    budget_scope: str = _option(
        "crop",
        (lambda value: isinstance(value, str) and value in ("crop", "image", "video"), "'crop', 'image' or 'video'"),
        "crop: every crop has its own budget and is selected from alone, as in the paper; image: the crops of an image "
        "share the sum of their budgets and are selected from together; video: the frames of a video too",
    )
    text_coverage_weight: float = _option(1.0, WEIGHT, "weight of covering the question")
    vision_coverage_weight: float = _option(0.5, WEIGHT, "weight of covering the image, the paper's alpha")
    text_coverage_depth: int | str = _option(
        1,
        (
            lambda value: _is_count(value) or (isinstance(value, str) and value == "spread"),
            "a number of tokens of at least 1, or 'spread'",
        ),
        "how many of its best kept tokens each text row counts; the paper counts one; spread: as many as the row's "
        "mass spreads over, and one where it singles out no part of the image",
    )
    text_temperature: float = _option(0.02, TEMPERATURE, "temperature of the text rows, the paper's tau_t")
    vision_temperature: float = _option(0.2, TEMPERATURE, "temperature of the vision rows, the paper's tau_v")
    padding: str = _option(
        "stock",
        (
            lambda value: isinstance(value, str) and value in ("stock", "exclude", "include"),
            "'stock', 'exclude' or 'include'",
        ),
        "stock: select among the tokens that the stock model reads; exclude: but not bands of one colour at the "
        "borders of an image (MMTok++); include: for LLaVA, also the padding of tiles, as the paper's code does",
    )
    coverage_target: float | None = _option(
        None,
        (lambda value: value is None or _is_share(value), "a share in (0, 1], or None to spend every budget"),
        "share of the coverage of all tokens, in (0, 1], at which a budget is spent no further; the budget is then an "
        "upper limit",
    )
    image_scale: float | None = _option(
        None,
        (
            lambda value: value is None or _is_share(value),
            "a number in (0, 1], or None for images as the processor made them",
        ),
        "factor in (0, 1] that width and height of images and frames are multiplied by before the vision tower; a "
        "budget that is a share is then a share of the fewer tokens",
    )
    covered_text: str | None = _option(
        None,
        (
            lambda value: value is None or is_text(value),
            "a text with words in it, or None to cover the question",
        ),
        "covers this text in place of the question, so that what is kept does not depend on the question",
    )
    question_format: dict[str, Any] | None = _option(
        None,
        (
            # What is in it has messages of its own.
            lambda value: value is None or (isinstance(value, Mapping) and bool(QuestionFormat.of(value))),
            "a dictionary, or None for the formats that are known",
        ),
        "how a question stands in a prompt: a dictionary with user_turns, assistant_turns, other_turns, instructions "
        "and stop_words, see QuestionFormat; None for the formats and lists that are known",
    )

    def __post_init__(self) -> None:
        for name in OPTION_NAMES:
            object.__setattr__(self, name, check_option(name, getattr(self, name)))
        check_weights(self.text_coverage_weight, self.vision_coverage_weight)

    @classmethod
    def from_config(cls, config: Any, **overrides: Any) -> PruningOptions:
        """The options of `config` with `overrides` in their place."""
        return cls(**{name: overrides[name] if name in overrides else getattr(config, name) for name in OPTION_NAMES})

    @property
    def prunes(self) -> bool:
        """Whether the prompt can get shorter at all: by a budget, or by images that are shrunk."""
        return self.vision_token_budget is not None or self.image_scale is not None

    def budget_of(self, tokens: int) -> int:
        """Tokens to keep of a crop of `tokens` tokens: at least 1 and at most all."""
        if self.vision_token_budget is None:
            return tokens
        if isinstance(self.vision_token_budget, float):
            return max(1, round(self.vision_token_budget * tokens))
        return min(self.vision_token_budget, tokens)


OPTION_NAMES: tuple[str, ...] = tuple(each.name for each in fields(PruningOptions))
# Those that change what the vision tower reads, so that `encode_images` takes them.
ENCODING_OPTIONS = frozenset({"image_scale"})
# Those that mean something for some families only.
FAMILY_OPTIONS = ("padding", "image_scale")
_CHECKS: dict[str, Check] = {each.name: each.metadata["check"] for each in fields(PruningOptions)}

# With these the picks of LLaVA are identical to those of the paper's reference code. The defaults differ in the last
# one only: they read the tokens that the stock model reads.
PAPER_OPTIONS: dict[str, Any] = {
    **{
        each.name: each.default
        for each in fields(PruningOptions)
        if each.name not in ("vision_token_budget", "covered_text", "question_format")
    },
    "padding": "include",
}

# Text rows that count as many tokens as they spread over, with the temperature that this was measured with.
SPREAD_OPTIONS: dict[str, Any] = {"text_coverage_depth": "spread", "text_temperature": 0.1}


def check_option(name: str, value: Any) -> Any:
    """The value of the option `name`, a number of NumPy as Python's.

    Raises:
        ValueError: it is not acceptable; the message names the option, the value and what is accepted.
    """
    value, (accepts, wanted) = _plain(value), _CHECKS[name]
    if not accepts(value):
        shown = repr(value)
        raise ValueError(f"{name} is {shown if len(shown) <= 80 else shown[:77] + '...'}: give {wanted}.")
    return value


def check_weights(text_coverage_weight: float, vision_coverage_weight: float) -> None:
    """Raises a ValueError when both coverage weights are 0."""
    if text_coverage_weight == 0 and vision_coverage_weight == 0:
        raise ValueError(
            "text_coverage_weight and vision_coverage_weight are both 0, which leaves nothing to cover: raise one of "
            "them, or turn pruning off with vision_token_budget=None."
        )


def options_within(config: Any) -> dict[str, Any]:
    """The options that are attributes of `config`, such as a `GenerationConfig`; None is a value like others."""
    return {name: getattr(config, name) for name in OPTION_NAMES if hasattr(config, name)}


def call_options(arguments: dict[str, Any], config: Any, *generation_configs: Any) -> PruningOptions:
    """The options of one call.

    Args:
        arguments: keyword arguments of the call, out of which the options are taken; they have the last word.
        config: the model's configuration, which has the first.
        generation_configs: generation configurations, the one with the last word first; None is left out.

    Raises:
        ValueError: an option out of range, or an argument that is nearly the name of an option.
    """
    for name in arguments:
        if name not in OPTION_NAMES and (near := near_option(name)):
            raise ValueError(f"{name} is not an argument: did you mean {near}?")
    overrides: dict[str, Any] = {}
    for given in reversed(generation_configs):
        overrides |= options_within(given)
    overrides |= {name: arguments.pop(name) for name in OPTION_NAMES if name in arguments}
    return PruningOptions.from_config(config, **overrides)


@lru_cache(maxsize=256)
def near_option(name: str) -> str:
    """The option that `name` may be a misspelling of, or ""."""
    return next(iter(difflib.get_close_matches(name, OPTION_NAMES, 1, 0.85)), "")


def pop_given(arguments: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Takes arguments of these names out of `arguments`, and returns those that are not None."""
    found = {name: arguments.pop(name) for name in names if name in arguments}
    return {name: value for name, value in found.items() if value is not None}


def is_meaningful(name: str, value: Any, own_options: Mapping[str, Sequence[Any] | None]) -> bool:
    """Whether a value of the option `name` means something for a family with these `own_options`."""
    accepted = own_options.get(name, ())
    common = name not in FAMILY_OPTIONS or value == getattr(PruningOptions, name)
    return common or accepted is None or value in accepted


def require_meaningful(options: PruningOptions, own_options: Mapping[str, Sequence[Any] | None], owner: str) -> None:
    """Raises a ValueError for an option that means nothing for `owner`, a class or family with these `own_options`."""
    for name in FAMILY_OPTIONS:
        value = getattr(options, name)
        if not is_meaningful(name, value, own_options):
            raise ValueError(f"{name} is {value!r}, which means nothing for {owner}: leave it out.")


def require_known(arguments: Collection[str], known: Collection[str]) -> None:
    """Raises a ValueError for arguments that are neither inputs nor options."""
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"{unknown[0]} is neither an input nor an option: the options are {', '.join(OPTION_NAMES)}.")
