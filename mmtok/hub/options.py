"""The options of one pruning: their defaults, what is accepted, and their help texts, in one place.

A new option is one field here and the code that uses it: configuration, `generate`, `forward`, the command line, the
endpoint handler and the table in the documentation read the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any


def _refuse(name: str, value: Any, wanted: str) -> None:
    text = repr(value)
    raise ValueError(f"{name} is {text if len(text) <= 80 else text[:77] + '...'}: give {wanted}.")


# What a weight other than 0 and a temperature may be: what float32 can tell apart behind the products with it.
LEAST, MOST, RANGE = 1e-6, 1e6, "from 1e-6 to 1e6"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's, which JSON can hold."""
    if isinstance(value, (bool, int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def _is_id_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _budget(name: str, value: Any) -> None:
    count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (value is None or count or (isinstance(value, float) and 0 < value <= 1)):
        _refuse(
            name,
            value,
            "a number of tokens of at least 1, a share of them as a float in (0, 1], or None to keep every token",
        )


def _share(name: str, value: Any) -> None:
    if value is not None and not (_is_number(value) and 0 < value <= 1):
        _refuse(name, value, "a share of the vision tokens in (0, 1], or None to use vision_token_budget")


def _weight(name: str, value: Any) -> None:
    if not (_is_number(value) and (value == 0 or LEAST <= value <= MOST)):
        _refuse(name, value, f"0, or a number {RANGE}")


def _temperature(name: str, value: Any) -> None:
    if not (_is_number(value) and LEAST <= value <= MOST):
        _refuse(name, value, f"a number {RANGE}")


def _unit(name: str, value: Any) -> None:
    if not isinstance(value, str) or value not in ("cosine", "spread"):
        _refuse(name, value, "'cosine' or 'spread'")


def _scope(name: str, value: Any) -> None:
    if not isinstance(value, str) or value not in ("crop", "image"):
        _refuse(name, value, "'crop' or 'image'")


def _target(name: str, value: Any) -> None:
    if value is not None and not (_is_number(value) and 0 < value <= 1):
        _refuse(name, value, "a share in (0, 1], or None to spend every budget")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        _refuse(name, value, "True or False")


def _ids(name: str, value: Any) -> None:
    if not _is_id_list(value):
        _refuse(name, value, "a list of token ids")


def _sequences(name: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(_is_id_list(item) and len(item) for item in value):
        _refuse(name, value, "a list of lists of token ids, none of them empty")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        _refuse(name, value, "a string, as staging writes it")


def _bitmap(name: str, value: Any) -> None:
    digits = isinstance(value, str) and value.isascii() and (not value or value.isalnum()) and len(value) % 2 == 0
    if not digits or any(digit not in "0123456789abcdefABCDEF" for digit in value):
        _refuse(name, value, "a string of hexadecimal digits, two for each byte")


def _option(default: Any, check: Callable[[str, Any], None], text: str, *, table: bool = False) -> Any:
    """A field: its default, the check that raises a ValueError, its help, and whether it is a table of token ids."""
    return field(default=default, metadata={"check": check, "help": text, "table": table})


@dataclass(frozen=True)
class PruningOptions:
    """The options of one pruning: those of the configuration, with the overrides of one call.

    Tables of token ids describe the tokenizer and the chat template; `mmtok stage` derives them.

    Raises:
        ValueError: a value out of range; the message names the option, the value and what is accepted.
    """

    vision_token_budget: int | float | None = _option(
        64,
        _budget,
        "vision tokens kept of each crop (a LLaVA-1.5 image is one crop, a LLaVA-NeXT image up to five, a video one a "
        "frame): a number of tokens, or a share of them as a float in (0, 1]; None keeps all",
    )
    vision_token_share: float | None = _option(
        None,
        _share,
        "share of each crop's, of a video each frame's, vision tokens that is kept, in (0, 1]; where it is given, it "
        "takes the place of vision_token_budget",
    )
    budget_scope: str = _option(
        "crop",
        _scope,
        "crop: every crop has its own budget and is selected from alone, as in the paper; image: the crops of an image "
        "share the sum of their budgets and are selected from together (a video's frames never do)",
    )
    text_coverage_weight: float = _option(1.0, _weight, "weight of covering the question")
    vision_coverage_weight: float = _option(0.5, _weight, "weight of covering the image, the paper's alpha")
    text_temperature: float = _option(0.02, _temperature, "temperature of the text rows, the paper's tau_t")
    vision_temperature: float = _option(0.2, _temperature, "temperature of the vision rows, the paper's tau_v")
    exclude_padding: bool = _option(
        False,
        _flag,
        "do not keep bands of one constant colour at the borders of an image, not of frames (MMTok++)",
    )
    coverage_target: float | None = _option(
        None,
        _target,
        "share of the coverage of all tokens, in (0, 1], at which a budget is spent no further; the budget is then an "
        "upper limit",
    )
    text_temperature_unit: str = _option(
        "cosine",
        _unit,
        "what text_temperature counts in: cosine, as in the paper, or spread, the standard deviation of the words' "
        "cosines with the crop's tokens",
    )
    keep_image_newline: bool = _option(
        False,
        _flag,
        "keep the row separators of a pruned image of LLaVA-NeXT and LLaVA-OneVision, and the one behind a video; the "
        "paper drops them",
    )
    select_before_unpadding: bool = _option(
        False,
        _flag,
        "LLaVA-NeXT: select among all tokens of every crop, also those of the padding that the stock model removes, as "
        "the paper's reference code does",
    )
    ignored_token_ids: tuple[int, ...] | list[int] = _option(
        (), _ids, "token ids that are not covered: punctuation and further special tokens", table=True
    )
    ignored_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = _option(
        (), _sequences, "sequences of token ids that are not covered: stop words", table=True
    )
    punctuation_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = _option(
        (), _sequences, "punctuation marks that are several tokens each, which are not covered", table=True
    )
    instruction_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = _option(
        (), _sequences, "sequences that are no part of the question: fixed benchmark instructions", table=True
    )
    user_turn_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = _option(
        (), _sequences, 'what opens a turn of the user, such as "USER:"; only the last turn is covered', table=True
    )
    assistant_turn_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = _option(
        (), _sequences, "what opens a turn of the assistant and so ends the user's", table=True
    )
    timestamp_token_ids: tuple[int, ...] | list[int] = _option(
        (),
        _ids,
        'what the timestamps in front of a video\'s frames are made of, such as "0.5 seconds"; text of these ids alone '
        "that ends in front of a frame is not covered",
        table=True,
    )
    word_continuation_bitmap: str = _option(
        "",
        _bitmap,
        "hexadecimal bitmap over the vocabulary; bit i % 8 of byte i // 8 is set when token id i continues the word of "
        "the token before it; without it every token begins a word",
        table=True,
    )
    word_piece_texts: str = _option(
        "",
        _text,
        "the packed texts of the pieces that words are made of, from which a word is tokenised as it is behind a "
        "space, whatever it stands behind; without it words keep the tokens that they have",
        table=True,
    )

    def __post_init__(self) -> None:
        for name in OPTION_NAMES:
            object.__setattr__(self, name, check_option(name, getattr(self, name)))
        check_weights(self.text_coverage_weight, self.vision_coverage_weight)

    @classmethod
    def from_config(cls, config: Any, **overrides: Any) -> PruningOptions:
        """The options of `config` with `overrides` in their place.

        A budget among the overrides also replaces the configuration's share.
        """
        if "vision_token_budget" in overrides:
            overrides.setdefault("vision_token_share", None)
        return cls(**{name: overrides[name] if name in overrides else getattr(config, name) for name in OPTION_NAMES})

    @property
    def tables(self) -> dict[str, Any]:
        """The tables of token ids, by the name of the option."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.metadata["table"]}

    @property
    def prunes(self) -> bool:
        """Whether there is a budget at all."""
        return self.vision_token_budget is not None or self.vision_token_share is not None

    def budget_of(self, tokens: int) -> int:
        """Tokens to keep of a crop of `tokens` tokens: at least 1 and at most all."""
        if self.vision_token_share is not None:
            return max(1, round(self.vision_token_share * tokens))
        if self.vision_token_budget is None:
            return tokens
        if isinstance(self.vision_token_budget, float):
            return max(1, round(self.vision_token_budget * tokens))
        return min(self.vision_token_budget, tokens)


OPTION_NAMES: tuple[str, ...] = tuple(each.name for each in fields(PruningOptions))
_CHECKS: dict[str, Callable[[str, Any], None]] = {each.name: each.metadata["check"] for each in fields(PruningOptions)}

# The paper's reference code, pick for pick. The defaults differ in the last one only: they read the tokens that the
# stock model reads.
PAPER_OPTIONS: dict[str, Any] = {
    **{
        each.name: each.default
        for each in fields(PruningOptions)
        if not each.metadata["table"] and not each.name.startswith("vision_token_")
    },
    "select_before_unpadding": True,
}

# Options of earlier releases that were behind the others in our measurements, and the value at which they did nothing.
REMOVED_OPTIONS: dict[str, Any] = {"center_features": False}


def check_option(name: str, value: Any) -> Any:
    """The value of the option `name`, a number of NumPy as Python's.

    Raises:
        ValueError: it is not acceptable; the message names the option, the value and what is accepted.
    """
    value = _plain(value)
    _CHECKS[name](name, value)
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
