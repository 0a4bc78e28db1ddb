"""Configurations of the model families with MMTok vision-token pruning (arXiv 2508.18264).

Every option of the method is an attribute of the configuration, is validated when it is set, can be given to
`from_pretrained(...)`, and can be overridden by a generation configuration, or for one call of `generate(...)` or
`forward(...)`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import LlavaConfig, LlavaNextConfig, LlavaOnevisionConfig, Qwen2_5_VLConfig, Qwen3VLConfig

try:
    from .host import name_for_tasks
    from .options import (
        OPTION_NAMES,
        PruningOptions,
        check_option,
        check_weights,
        options_within,
    )

    # transformers 4.57 copies no module that this file does not name itself.
    from .question import QuestionFormat  # noqa: F401
except ImportError:
    if __package__:  # a published repository: the import that failed says what is wrong
        raise
    # A checkout or an installed package, where the modules are not flat.
    from mmtok.hub.host import name_for_tasks
    from mmtok.hub.options import (
        OPTION_NAMES,
        PruningOptions,
        check_option,
        check_weights,
        options_within,
    )


class PruningConfigMixin:
    """Gives a configuration the options of `PruningOptions`; a bad value is refused and the old one stays."""

    # Options whose default is another than in `PruningOptions`.
    default_options: ClassVar[dict[str, Any]] = {}
    options_class: ClassVar[type] = PruningOptions

    def __init__(self, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTION_NAMES if name in kwargs}
        super().__init__(**kwargs)
        defaults = PruningOptions(**self.default_options)
        for name in OPTION_NAMES:
            value = options.get(name, getattr(defaults, name))
            setattr(self, name, _plain_lists(value) if isinstance(value, (list, tuple)) else value)

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """Where transformers' `pipeline` finds the class that takes pruning options as arguments.

        It is the published repository that this file is of. Where mmtok is installed instead there is none, because
        transformers loads it from a repository only and asks for `trust_remote_code`.
        """
        if not __package__:
            return {}
        pipeline = {"impl": "pipeline.MMTokImageTextToTextPipeline", "pt": ["AutoModelForImageTextToText"]}
        return {"image-text-to-text": pipeline}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OPTION_NAMES:
            value = check_option(name, value)
            weights = {each: getattr(self, each, 1.0) for each in _WEIGHTS}
            check_weights(**{**weights, **({name: value} if name in _WEIGHTS else {})})
        super().__setattr__(name, value)


_WEIGHTS = ("text_coverage_weight", "vision_coverage_weight")


def _plain_lists(value: Any) -> Any:
    """Tuples as lists, as a configuration read back from JSON has them."""
    return [_plain_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


class MMTokLlavaConfig(PruningConfigMixin, LlavaConfig):
    """`LlavaConfig` with the options of `PruningOptions`.

    The model type is new, so that a program without `trust_remote_code=True` fails instead of running unpruned.

    Raises:
        ValueError: an option out of range.
    """

    model_type = "mmtok_llava"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class MMTokLlavaNextConfig(PruningConfigMixin, LlavaNextConfig):
    """`LlavaNextConfig` with the options of `PruningOptions`.

    The model type is new, so that a program without `trust_remote_code=True` fails instead of running unpruned.

    Raises:
        ValueError: an option out of range.
    """

    model_type = "mmtok_llava_next"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class MMTokLlavaOnevisionConfig(PruningConfigMixin, LlavaOnevisionConfig):
    """`LlavaOnevisionConfig` with the options of `PruningOptions`.

    The crops of an image are the whole image and the mosaic of its tiles, which differ in size: a share of their tokens
    is a better budget than a number. The default is 0.2, as in the paper for other images of any size.

    The model type is new, so that a program without `trust_remote_code=True` fails instead of running unpruned.

    Raises:
        ValueError: an option out of range.
    """

    model_type = "mmtok_llava_onevision"
    default_options: ClassVar[dict[str, Any]] = {"vision_token_budget": 0.2}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class MMTokQwen2_5_VLConfig(PruningConfigMixin, Qwen2_5_VLConfig):
    """`Qwen2_5_VLConfig` with the options of `PruningOptions`.

    An image is one crop of any size: a share of its tokens is a better budget than a number. The defaults are the
    paper's for this model, a share of 0.2 and a temperature of the text rows of 0.01.

    The model type is new, so that a program without `trust_remote_code=True` fails instead of running unpruned.

    Raises:
        ValueError: an option out of range.
    """

    model_type = "mmtok_qwen2_5_vl"
    default_options: ClassVar[dict[str, Any]] = {"vision_token_budget": 0.2, "text_temperature": 0.01}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class MMTokQwen3VLConfig(PruningConfigMixin, Qwen3VLConfig):
    """`Qwen3VLConfig` with the options of `PruningOptions`.

    An image is one crop of any size: a share of its tokens is a better budget than a number. The defaults are the
    paper's for Qwen2.5-VL, a share of 0.2 and a temperature of the text rows of 0.01.

    The model type is new, so that a program without `trust_remote_code=True` fails instead of running unpruned.

    Raises:
        ValueError: an option out of range.
    """

    model_type = "mmtok_qwen3_vl"
    default_options: ClassVar[dict[str, Any]] = {"vision_token_budget": 0.2, "text_temperature": 0.01}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


name_for_tasks("mmtok_llava", "MMTokLlavaForConditionalGeneration")
name_for_tasks("mmtok_llava_next", "MMTokLlavaNextForConditionalGeneration")
name_for_tasks("mmtok_llava_onevision", "MMTokLlavaOnevisionForConditionalGeneration")
name_for_tasks("mmtok_qwen2_5_vl", "MMTokQwen2_5_VLForConditionalGeneration")
name_for_tasks("mmtok_qwen3_vl", "MMTokQwen3VLForConditionalGeneration")


__all__ = [
    "OPTION_NAMES",
    "MMTokLlavaConfig",
    "MMTokLlavaNextConfig",
    "MMTokLlavaOnevisionConfig",
    "MMTokQwen2_5_VLConfig",
    "MMTokQwen3VLConfig",
    "PruningOptions",
    "options_within",
]
