"""Configurations of LLaVA-1.5 and LLaVA-NeXT with MMTok vision-token pruning (arXiv 2508.18264).

Every knob of the method is an attribute of the configuration, is validated when it is set, can be given to
`from_pretrained(...)`, and can be overridden by a generation configuration, or for one call of `generate(...)` or
`forward(...)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from transformers import LlavaConfig, LlavaNextConfig


@dataclass(frozen=True)
class PruningOptions:
    """The knobs of one pruning: those of the configuration, with the overrides of one call.

    Args:
        vision_token_budget: vision tokens kept per crop (a LLaVA-1.5 picture is one crop, a LLaVA-NeXT picture up to
            five). An integer is a number of tokens, a float in (0, 1] a share of the crop's tokens, None keeps all.
        budget_scope: "crop" gives every crop its own budget, as the paper does; "image" lets the crops of a picture
            share the sum of their budgets.
        text_coverage_weight: weight of covering the question.
        vision_coverage_weight: weight of covering the picture, the paper's alpha.
        text_temperature: temperature of the text rows, the paper's tau_t.
        vision_temperature: temperature of the vision rows, the paper's tau_v.
        exclude_padding: bands of one constant colour at the borders of a picture are no candidates (MMTok++, the
            paper's appendix).
        coverage_target: share of the coverage of all tokens in (0, 1] at which a budget is not spent any further;
            `vision_token_budget` is then an upper limit. None spends every budget.
        center_features: subtract the mean of the crop's vision tokens from each of them before the cosine, for encoders
            whose tokens are almost parallel.
        text_temperature_unit: what text_temperature counts in: "cosine", as in the paper, or "spread", the standard
            deviation of the words' cosines with the crop's tokens, which suits models on whose scale of cosines the
            paper's temperature was not tuned.
        keep_image_newline: keep LLaVA-NeXT's row separators of a pruned picture; the paper drops them.
        ignored_token_ids: token ids that are not worth covering: punctuation and further special tokens.
        ignored_token_sequences: sequences of token ids that are not worth covering: stop words.
        instruction_token_sequences: sequences that are no part of the question: fixed benchmark instructions.
        user_turn_token_sequences: what opens a turn of the user, such as "USER:"; only the last turn is covered.
        assistant_turn_token_sequences: what opens a turn of the assistant and so ends the user's.
        word_continuation_bitmap: hexadecimal bitmap over the vocabulary; bit i % 8 of byte i // 8 is set when token id
            i continues the word of the token before it. Without it every token begins a word.

    The last six describe the tokenizer and the chat template; `hub_upload.py stage` derives them.

    Raises:
        ValueError: a value out of range; the message names the knob, the value and what is accepted.
    """

    vision_token_budget: int | float | None = 64
    budget_scope: str = "crop"
    text_coverage_weight: float = 1.0
    vision_coverage_weight: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    exclude_padding: bool = False
    coverage_target: float | None = None
    center_features: bool = False
    text_temperature_unit: str = "cosine"
    keep_image_newline: bool = False
    ignored_token_ids: tuple[int, ...] | list[int] = ()
    ignored_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = ()
    instruction_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = ()
    user_turn_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = ()
    assistant_turn_token_sequences: tuple[tuple[int, ...], ...] | list[list[int]] = ()
    word_continuation_bitmap: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            check_knob(field.name, getattr(self, field.name))
        check_weights(self.text_coverage_weight, self.vision_coverage_weight)

    @classmethod
    def from_config(cls, config: Any, **overrides: Any) -> PruningOptions:
        """The knobs of `config` with `overrides` in their place."""
        return cls(**{name: overrides.get(name, getattr(config, name)) for name in KNOB_NAMES})


KNOB_NAMES: tuple[str, ...] = tuple(field.name for field in fields(PruningOptions))


def knobs_within(config: Any) -> dict[str, Any]:
    """The knobs that are attributes of `config`, such as a `GenerationConfig`; None is a value like others."""
    return {name: getattr(config, name) for name in KNOB_NAMES if hasattr(config, name)}


# For each model type the best combination that was tried, chosen by answers about pictures that no table of
# docs/quality.md shows. With few tokens for each of five crops nothing was better than the paper's settings.
RECOMMENDED_KNOBS: dict[str, dict[str, Any]] = {
    "mmtok_llava": {
        "exclude_padding": True,
        "text_temperature": 1.0,
        "text_temperature_unit": "spread",
        "vision_temperature": 1.6,
        "vision_coverage_weight": 4.0,
    },
    "mmtok_llava_next": {"exclude_padding": True},
}


def check_knob(name: str, value: Any) -> None:
    """Raises a ValueError that names the knob and the value unless `value` is acceptable for the knob `name`."""
    if name == "vision_token_budget":
        _check_budget(value)
    elif name == "budget_scope":
        if value not in ("crop", "image"):
            raise ValueError(f"budget_scope is {value!r}: give 'crop' or 'image'.")
    elif name == "text_temperature_unit":
        if value not in ("cosine", "spread"):
            raise ValueError(f"text_temperature_unit is {value!r}: give 'cosine' or 'spread'.")
    elif name in ("text_coverage_weight", "vision_coverage_weight"):
        if not (_is_finite_number(value) and value >= 0):
            raise ValueError(f"{name} is {value!r}: give a finite number that is not negative.")
    elif name in ("text_temperature", "vision_temperature"):
        if not (_is_finite_number(value) and value > 0):
            raise ValueError(f"{name} is {value!r}: give a finite number above 0.")
    elif name == "coverage_target":
        if value is not None and not (_is_finite_number(value) and 0 < value <= 1):
            raise ValueError(f"coverage_target is {value!r}: give a share in (0, 1], or None to spend every budget.")
    elif name in ("exclude_padding", "center_features", "keep_image_newline"):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}: give True or False.")
    elif name == "ignored_token_ids":
        if not _is_id_list(value):
            raise ValueError(f"{name} is {_shortened(value)}: give a list of token ids.")
    elif name == "word_continuation_bitmap":
        if not _is_bitmap(value):
            raise ValueError(f"{name} is {_shortened(value)}: give a string of hexadecimal digits, two for each byte.")
    elif not isinstance(value, (list, tuple)) or not all(_is_id_list(item) and len(item) for item in value):
        raise ValueError(f"{name} is {_shortened(value)}: give a list of lists of token ids, none of them empty.")


def check_weights(text_coverage_weight: float, vision_coverage_weight: float) -> None:
    """Raises a ValueError when both coverage weights are 0."""
    if text_coverage_weight == 0 and vision_coverage_weight == 0:
        raise ValueError(
            "text_coverage_weight and vision_coverage_weight are both 0, which leaves nothing to cover: raise one of "
            "them, or turn pruning off with vision_token_budget=None."
        )


def _check_budget(value: Any) -> None:
    integer = isinstance(value, int) and not isinstance(value, bool)
    share = isinstance(value, float) and 0 < value <= 1
    if not (value is None or share or (integer and value >= 1)):
        raise ValueError(
            f"vision_token_budget is {value!r}: give a number of tokens of at least 1, a share of them as a float "
            "in (0, 1], or None to keep every token."
        )


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_id_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _is_bitmap(value: Any) -> bool:
    if not isinstance(value, str) or not value.isascii() or (value and not value.isalnum()):
        return False
    try:
        bytes.fromhex(value)
    except ValueError:
        return False
    return True


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class PruningConfigMixin:
    """Gives a configuration the knobs of `PruningOptions`; a bad value is refused and the old one stays."""

    def _init_knobs(self, knobs: dict[str, Any]) -> None:
        defaults = PruningOptions()
        for name in KNOB_NAMES:
            value = knobs.get(name, getattr(defaults, name))
            setattr(self, name, _plain_lists(value) if isinstance(value, (list, tuple)) else value)
        check_weights(self.text_coverage_weight, self.vision_coverage_weight)  # type: ignore[attr-defined]

    @classmethod
    def recommended(cls, **kwargs: Any) -> Any:
        """A configuration with the `RECOMMENDED_KNOBS` of its model type where `kwargs` don't say otherwise.

        For a checkpoint that exists, `from_pretrained(..., **RECOMMENDED_KNOBS["mmtok_llava"])` sets the same.
        """
        return cls(**{**RECOMMENDED_KNOBS[cls.model_type], **kwargs})  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in KNOB_NAMES:
            check_knob(name, value)
        super().__setattr__(name, value)


def _plain_lists(value: Any) -> Any:
    """Tuples as lists, as a configuration read back from JSON has them."""
    return [_plain_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


class MMTokLlavaConfig(PruningConfigMixin, LlavaConfig):
    """`LlavaConfig` with the knobs of `PruningOptions`.

    The model type is new, so that a program without `trust_remote_code=True` fails instead of running unpruned.

    Raises:
        ValueError: a knob out of range.
    """

    model_type = "mmtok_llava"

    def __init__(self, **kwargs: Any) -> None:
        knobs = {name: kwargs.pop(name) for name in KNOB_NAMES if name in kwargs}
        super().__init__(**kwargs)
        self._init_knobs(knobs)


class MMTokLlavaNextConfig(PruningConfigMixin, LlavaNextConfig):
    """`LlavaNextConfig` with the knobs of `PruningOptions`.

    The model type is new, so that a program without `trust_remote_code=True` fails instead of running unpruned.

    Raises:
        ValueError: a knob out of range.
    """

    model_type = "mmtok_llava_next"

    def __init__(self, **kwargs: Any) -> None:
        knobs = {name: kwargs.pop(name) for name in KNOB_NAMES if name in kwargs}
        super().__init__(**kwargs)
        self._init_knobs(knobs)


def _name_for_tasks() -> None:
    """Names the two model types in the tables in which transformers looks up what a model can do.

    `transformers serve`, pipelines and the choice of labels for training ask them by name.
    """
    from transformers.models.auto import modeling_auto

    for task in ("MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"):
        names = getattr(modeling_auto, task, None)
        if names is not None:
            names.setdefault("mmtok_llava", "MMTokLlavaForConditionalGeneration")
            names.setdefault("mmtok_llava_next", "MMTokLlavaNextForConditionalGeneration")


_name_for_tasks()

__all__ = [
    "KNOB_NAMES",
    "RECOMMENDED_KNOBS",
    "MMTokLlavaConfig",
    "MMTokLlavaNextConfig",
    "PruningOptions",
    "knobs_within",
]
