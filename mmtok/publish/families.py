"""The model families, one entry for each model type of a stock checkpoint.

Staging, cards, verification, the fit check, presets, evaluation, drawings and the diagnosis read what they need here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from mmtok.auto_classes import AUTOMATIC

# How an image becomes crops: one crop; the whole image and its tiles; the whole image and one mosaic of its tiles; one
# grid of the image's own size.
Images = Literal["crop", "tiles", "mosaic", "grid"]
_FIXED_GRID = ("clip_vision_model", "siglip_vision_model")

PREFIX = "mmtok_"


@dataclass(frozen=True)
class Family:
    """What is known of the models of one model type.

    Attributes:
        title: its name in cards and messages.
        model_class: name of the class that prunes.
        modeling_file: the file of this project's root that holds it; published with every repository of the family.
        own_modules: files of `mmtok/hub` that no repository of another family gets.
        images: how an image becomes crops.
        towers: model types of the vision towers whose images can be pruned; empty for a family with one of its own.
        vllm: whether the vLLM plugin of this package serves it.
        frame: what has a budget of its own in a video; empty for a family whose videos are not pruned.
    """

    title: str
    model_class: str
    modeling_file: str
    images: Images
    own_modules: tuple[str, ...] = ()
    towers: tuple[str, ...] = _FIXED_GRID
    vllm: bool = True
    frame: str = ""

    @property
    def config_class(self) -> str:
        """Name of its configuration class, in `configuration_mmtok.py`."""
        return self.model_class.replace("ForConditionalGeneration", "Config")

    @property
    def stock_class(self) -> str:
        """Name of the class of transformers that it derives from."""
        return self.model_class.removeprefix("MMTok")

    def load_class(self) -> Any:
        """The class that prunes, of the installed package."""
        return getattr(import_module(self.modeling_file.removesuffix(".py")), self.model_class)

    @property
    def default_options(self) -> dict[str, Any]:
        """Options whose default is another than in `PruningOptions`."""
        return dict(getattr(import_module("configuration_mmtok"), self.config_class).default_options)

    @property
    def auto_map(self) -> dict[str, str]:
        """Which class of which file each automatic class of transformers leads to."""
        model = f"{self.modeling_file.removesuffix('.py')}.{self.model_class}"
        return {"AutoConfig": f"configuration_mmtok.{self.config_class}", **dict.fromkeys(AUTOMATIC, model)}


# model_type of a stock checkpoint -> its family.
FAMILIES: dict[str, Family] = {
    "llava": Family("LLaVA-1.5", "MMTokLlavaForConditionalGeneration", "modeling_mmtok_llava.py", "crop"),
    "llava_next": Family("LLaVA-NeXT", "MMTokLlavaNextForConditionalGeneration", "modeling_mmtok_llava.py", "tiles"),
    "llava_onevision": Family(
        "LLaVA-OneVision",
        "MMTokLlavaOnevisionForConditionalGeneration",
        "modeling_mmtok_llava_onevision.py",
        "mosaic",
        ("onevision_images.py",),
        frame="frame",
    ),
    "qwen2_5_vl": Family(
        "Qwen2.5-VL",
        "MMTokQwen2_5_VLForConditionalGeneration",
        "modeling_mmtok_qwen2_5_vl.py",
        "grid",
        ("qwen_images.py",),
        towers=(),
        frame="pair of frames that the tower reads together",
    ),
    "qwen3_vl": Family(
        "Qwen3-VL",
        "MMTokQwen3VLForConditionalGeneration",
        "modeling_mmtok_qwen3_vl.py",
        "grid",
        ("qwen_images.py",),
        towers=(),
        frame="pair of frames that the tower reads together",
    ),
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


def installed_modules() -> tuple[str, ...]:
    """Names of the modules of this project that are importable where it is installed."""
    modeling = {family.modeling_file.removesuffix(".py") for family in FAMILIES.values()}
    return ("mmtok", "hub_upload", "configuration_mmtok", *sorted(modeling))
