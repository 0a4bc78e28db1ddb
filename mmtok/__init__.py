"""MMTok: keeps the few vision tokens that together cover the question and the image (arXiv 2508.18264).

A name is imported from its module when it is asked for, so that `import mmtok` and the help of the command line need
no torch. A model or configuration class is registered with transformers' Auto classes then, so that a staged folder of
its family loads without `trust_remote_code`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .hub.families import FAMILIES, class_of

if TYPE_CHECKING:
    from configuration_mmtok import PruningOptions as PruningOptions

    from .hub.coverage import GreedySelection as GreedySelection
    from .hub.coverage import coverage_value as coverage_value
    from .hub.coverage import greedy_coverage as greedy_coverage
    from .hub.coverage import marginal_gains as marginal_gains
    from .hub.objective import coverage_matrix as coverage_matrix
    from .hub.pipeline import MMTokImageTextToTextPipeline as MMTokImageTextToTextPipeline
    from .hub.prune import prune as prune

__version__ = "0.1.0"
CODE_REPOSITORY = "https://github.com/mmtok/mmtok"


def install_line(extra: str) -> str:
    """What installs this package with an extra; from the repository, as the name on the package index is not ours."""
    return f"pip install 'mmtok[{extra}] @ git+{CODE_REPOSITORY}'"


# The Auto classes that a staged folder names; releases of transformers before 5 have no AutoModelForMultimodalLM.
AUTOMATIC: tuple[str, ...] = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")

# Public name -> the module that has it, beside the classes of the families. A new one is a line here, and one above.
_MODULES: dict[str, str] = {
    "GreedySelection": "mmtok.hub.coverage",
    "MMTokImageTextToTextPipeline": "mmtok.hub.pipeline",
    "PruningOptions": "configuration_mmtok",
    "coverage_matrix": "mmtok.hub.objective",
    "coverage_value": "mmtok.hub.coverage",
    "greedy_coverage": "mmtok.hub.coverage",
    "marginal_gains": "mmtok.hub.coverage",
    "prune": "mmtok.hub.prune",
}
_CLASSES = [name for family in FAMILIES.values() for name in (family.config_class, family.model_class)]

__all__ = [*_MODULES, *_CLASSES, "__version__"]


def register_auto_classes(config_class: type, model_class: type) -> None:
    """Lets `AutoConfig` and the Auto classes of models load a model type without code from its folder.

    A second call with the same classes changes nothing.

    Args:
        config_class: of the model type.
        model_class: of a model with such a configuration.
    """
    import transformers

    transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)  # type: ignore[attr-defined]
    for name in AUTOMATIC:
        automatic = getattr(transformers, name, None)
        if automatic is not None:
            automatic.register(config_class, model_class, exist_ok=True)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _, family = class_of(name)  # type: ignore[misc]
    config_class = getattr(import_module("configuration_mmtok"), family.config_class)
    model_class = family.load_class()
    register_auto_classes(config_class, model_class)
    return config_class if name == family.config_class else model_class


def __dir__() -> list[str]:
    return sorted(__all__)
