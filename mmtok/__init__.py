"""MMTok: keeps the few vision tokens that together cover the question and the image (arXiv 2508.18264).

A name is imported from its module when it is asked for, so that `import mmtok` and the help of the command line need
no torch. A model or configuration class is registered with transformers' Auto classes then, so that a staged folder of
its family loads without `trust_remote_code`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configuration_mmtok import MMTokLlavaConfig as MMTokLlavaConfig
    from configuration_mmtok import MMTokLlavaNextConfig as MMTokLlavaNextConfig
    from configuration_mmtok import MMTokLlavaOnevisionConfig as MMTokLlavaOnevisionConfig
    from configuration_mmtok import MMTokQwen2_5_VLConfig as MMTokQwen2_5_VLConfig
    from configuration_mmtok import MMTokQwen3VLConfig as MMTokQwen3VLConfig
    from configuration_mmtok import PruningOptions as PruningOptions
    from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration as MMTokLlavaForConditionalGeneration
    from modeling_mmtok_llava import MMTokLlavaNextForConditionalGeneration as MMTokLlavaNextForConditionalGeneration
    from modeling_mmtok_llava_onevision import (
        MMTokLlavaOnevisionForConditionalGeneration as MMTokLlavaOnevisionForConditionalGeneration,
    )
    from modeling_mmtok_qwen2_5_vl import (
        MMTokQwen2_5_VLForConditionalGeneration as MMTokQwen2_5_VLForConditionalGeneration,
    )
    from modeling_mmtok_qwen3_vl import MMTokQwen3VLForConditionalGeneration as MMTokQwen3VLForConditionalGeneration

    from .hub.coverage import GreedySelection as GreedySelection
    from .hub.coverage import coverage_value as coverage_value
    from .hub.coverage import greedy_coverage as greedy_coverage
    from .hub.coverage import marginal_gains as marginal_gains
    from .hub.objective import coverage_matrix as coverage_matrix
    from .hub.pipeline import MMTokImageTextToTextPipeline as MMTokImageTextToTextPipeline
    from .pruning import prune as prune

__version__ = "0.1.0"
CODE_REPOSITORY = "https://github.com/mmtok/mmtok"


def install_line(extra: str) -> str:
    """What installs this package with an extra; from the repository, as the name on the package index is not ours."""
    return f"pip install 'mmtok[{extra}] @ git+{CODE_REPOSITORY}'"


# Public name -> the module that has it. A new one is a line here, and one above for type checkers.
_MODULES: dict[str, str] = {
    "GreedySelection": "mmtok.hub.coverage",
    "MMTokImageTextToTextPipeline": "mmtok.hub.pipeline",
    "MMTokLlavaConfig": "configuration_mmtok",
    "MMTokLlavaForConditionalGeneration": "modeling_mmtok_llava",
    "MMTokLlavaNextConfig": "configuration_mmtok",
    "MMTokLlavaNextForConditionalGeneration": "modeling_mmtok_llava",
    "MMTokLlavaOnevisionConfig": "configuration_mmtok",
    "MMTokLlavaOnevisionForConditionalGeneration": "modeling_mmtok_llava_onevision",
    "MMTokQwen2_5_VLConfig": "configuration_mmtok",
    "MMTokQwen2_5_VLForConditionalGeneration": "modeling_mmtok_qwen2_5_vl",
    "MMTokQwen3VLConfig": "configuration_mmtok",
    "MMTokQwen3VLForConditionalGeneration": "modeling_mmtok_qwen3_vl",
    "PruningOptions": "configuration_mmtok",
    "coverage_matrix": "mmtok.hub.objective",
    "coverage_value": "mmtok.hub.coverage",
    "greedy_coverage": "mmtok.hub.coverage",
    "marginal_gains": "mmtok.hub.coverage",
    "prune": "mmtok.pruning",
}

__all__ = [*_MODULES, "__version__"]


if not TYPE_CHECKING:  # a type checker has to see that a name is not there

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        named = getattr(import_module(_MODULES[name]), name)
        if name.endswith(("Config", "ForConditionalGeneration")):
            _register(name.removesuffix("ForConditionalGeneration").removesuffix("Config"))
        return named


def _register(family: str) -> None:
    """Registers the classes of a family, such as "MMTokLlava", with the Auto classes of transformers."""
    names = (f"{family}Config", f"{family}ForConditionalGeneration")
    classes = (getattr(import_module(_MODULES[name]), name) for name in names)
    import_module("mmtok.auto_classes").register(*classes)


def __dir__() -> list[str]:
    return sorted(__all__)
