"""The model families, a line each. What is named after a family follows from its line; the rest its class declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# In front of the model type of a stock checkpoint. The type is new, so that a program without `trust_remote_code=True`
# fails instead of running unpruned.
PREFIX = "mmtok_"


@dataclass(frozen=True)
class Family:
    """The models of one model type.

    Attributes:
        title: its name in cards and messages.
        stock: how the names of its classes in transformers begin.
        module: the module of the class that prunes.
        defaults: options whose default is not that of `PruningOptions`.
        since: the first release of transformers that it was tested with; (0, 0) for all that this package supports.
    """

    title: str
    stock: str
    module: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    since: tuple[int, int] = (0, 0)

    @property
    def stock_class(self) -> str:
        """Name of the class of transformers."""
        return f"{self.stock}ForConditionalGeneration"

    @property
    def model_class(self) -> str:
        """Name of the class that prunes."""
        return f"MMTok{self.stock_class}"

    @property
    def config_class(self) -> str:
        """Name of its configuration class, in `configuration_mmtok`."""
        return f"MMTok{self.stock}Config"

    def is_available(self) -> bool:
        """Whether the installed transformers has the family, and is not older than what it was tested with."""
        import transformers  # not before: the table alone costs nothing

        release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        return release >= self.since and self.stock_class in transformers.__all__

    def load_class(self) -> Any:
        """The class that prunes.

        Raises:
            ImportError: the installed transformers lacks the family, or something that the class relies on.
        """
        if not self.is_available():
            import transformers

            needed = ".".join(map(str, self.since)) if any(self.since) else "a release"
            raise ImportError(
                f"{self.title} needs transformers {needed} or newer that has {self.stock_class}, and "
                f"{transformers.__version__} is installed: install a newer release."
            )
        # Beside this file: in a published repository always, in the package all but the root file of LLaVA.
        here = f"{__package__}.{self.module}"
        return getattr(import_module(here if find_spec(here) else self.module), self.model_class)


# An image is one crop of any size, so that a share of its tokens is a better budget than a number. The defaults are the
# paper's for Qwen2.5-VL.
_GRID = {"vision_token_budget": 0.2, "text_temperature": 0.01}

# Images have any size, and nothing has been measured or published for the method on these models.
_SHARE = {"vision_token_budget": 0.2}

# Families that were added later were tested from this release on.
_NEW = (5, 9)

# model_type of a stock checkpoint -> its family.
FAMILIES: dict[str, Family] = {
    "llava": Family("LLaVA-1.5", "Llava", "modeling_mmtok_llava"),
    "llava_next": Family("LLaVA-NeXT", "LlavaNext", "modeling_mmtok_llava"),
    # The whole image and the mosaic of its tiles differ in size; 0.2 is the paper's for other images of any size.
    "llava_onevision": Family(
        "LLaVA-OneVision", "LlavaOnevision", "modeling_mmtok_llava_onevision", {"vision_token_budget": 0.2}
    ),
    "qwen2_vl": Family("Qwen2-VL", "Qwen2VL", "modeling_mmtok_qwen2_vl", _GRID, since=_NEW),
    "qwen2_5_vl": Family("Qwen2.5-VL", "Qwen2_5_VL", "modeling_mmtok_qwen2_5_vl", _GRID),
    "qwen3_vl": Family("Qwen3-VL", "Qwen3VL", "modeling_mmtok_qwen3_vl", _GRID),
    "qwen3_vl_moe": Family("Qwen3-VL-MoE", "Qwen3VLMoe", "modeling_mmtok_qwen3_vl", _GRID, since=_NEW),
    "qwen3_5": Family("Qwen3.5", "Qwen3_5", "modeling_mmtok_qwen3_5", _GRID, since=_NEW),
    "qwen3_5_moe": Family("Qwen3.5-MoE", "Qwen3_5Moe", "modeling_mmtok_qwen3_5", _GRID, since=_NEW),
    "internvl": Family("InternVL", "InternVL", "modeling_mmtok_internvl", since=_NEW),
    "gemma3": Family("Gemma 3", "Gemma3", "modeling_mmtok_gemma3", since=_NEW),
    "gemma4": Family("Gemma 4", "Gemma4", "modeling_mmtok_gemma4", _SHARE, since=(5, 24)),
    "mistral3": Family("Mistral 3", "Mistral3", "modeling_mmtok_mistral3", _SHARE, since=_NEW),
    "glm4v": Family("GLM-4.1V", "Glm4v", "modeling_mmtok_glm4v", _SHARE, since=_NEW),
    "glm4v_moe": Family("GLM-4.5V", "Glm4vMoe", "modeling_mmtok_glm4v", _SHARE, since=_NEW),
    "glm46v": Family("GLM-4.6V", "Glm46V", "modeling_mmtok_glm4v", _SHARE, since=_NEW),
}


def family_of(model_type: str | None) -> Family:
    """The family of a model type, that of a stock checkpoint or that of the class that prunes it.

    Raises:
        ValueError: there is no such family.
    """
    family = FAMILIES.get(str(model_type).removeprefix(PREFIX))
    if family is None:
        raise ValueError(f"There is no family for the model_type {model_type!r}: choose from {', '.join(FAMILIES)}.")
    return family


def class_of(name: str) -> tuple[str, Family] | None:
    """The model type and the family that a class is of, by its name; None for another class."""
    names = {
        each: (model_type, family)
        for model_type, family in FAMILIES.items()
        for each in (family.stock_class, family.model_class, family.config_class)
    }
    return names.get(name)
