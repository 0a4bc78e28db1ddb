"""Configurations of the model families with MMTok vision-token pruning (arXiv 2508.18264).

Every option of the method is an attribute of the configuration, is validated when it is set, can be given to
`from_pretrained(...)`, and can be overridden by a generation configuration, or for one call of `generate(...)` or
`forward(...)`.

There is a class for each family, such as `MMTokLlavaConfig` for `LlavaConfig`. It is made when it is first asked for,
because no release of transformers has to have all of the families.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import transformers

from mmtok.hub.families import PREFIX, class_of
from mmtok.hub.options import OPTION_NAMES, PruningOptions, check_option, check_weights, options_within
from mmtok.hub.releases import name_for_tasks


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
            setattr(self, name, options.get(name, getattr(defaults, name)))

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


@cache
def config_class(name: str) -> type:
    """The configuration class of a family, by its name.

    Raises:
        AttributeError: there is no such class, or the installed transformers lacks the family.
    """
    found = class_of(name)
    if found is None or name != found[1].config_class:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    model_type, family = found
    stock = getattr(transformers, f"{family.stock}Config", None)
    if stock is None:
        raise AttributeError(f"transformers {transformers.__version__} has no {family.title}: install a newer release.")
    own = ", ".join(f"{option}={value}" for option, value in family.defaults.items())
    members: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"`{stock.__name__}` with the options of `PruningOptions`{own and f'; its defaults have {own}'}.",
        # Of its own: transformers 5 makes one for a class that has none, which knows no option.
        "__init__": PruningConfigMixin.__init__,
        "model_type": f"{PREFIX}{model_type}",
        "default_options": dict(family.defaults),
    }
    name_for_tasks(members["model_type"], family.model_class)
    return type(name, (PruningConfigMixin, stock), members)


__getattr__ = config_class

__all__ = ["OPTION_NAMES", "PruningConfigMixin", "PruningOptions", "config_class", "options_within"]
