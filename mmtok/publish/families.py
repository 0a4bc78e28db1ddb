"""The model families that can be published: one line for each model type of a stock checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "mmtok_"


@dataclass(frozen=True)
class Family:
    """What a published repository of one model type loads.

    Attributes:
        model_class: name of the class that prunes.
        modeling_file: the file of this project's root that holds it; published with every repository of the family.
        own_modules: files of `mmtok/hub` that no repository of another family gets.
    """

    model_class: str
    modeling_file: str
    own_modules: tuple[str, ...] = ()

    @property
    def config_class(self) -> str:
        """Name of its configuration class, in `configuration_mmtok.py`."""
        return self.model_class.replace("ForConditionalGeneration", "Config")

    @property
    def auto_map(self) -> dict[str, str]:
        """Which class of which file each automatic class of transformers leads to."""
        model = f"{self.modeling_file.removesuffix('.py')}.{self.model_class}"
        automatic = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
        return {"AutoConfig": f"configuration_mmtok.{self.config_class}", **dict.fromkeys(automatic, model)}


# model_type of a stock checkpoint -> its family.
FAMILIES: dict[str, Family] = {
    "llava": Family("MMTokLlavaForConditionalGeneration", "modeling_mmtok_llava.py"),
    "llava_next": Family("MMTokLlavaNextForConditionalGeneration", "modeling_mmtok_llava.py"),
    "llava_onevision": Family(
        "MMTokLlavaOnevisionForConditionalGeneration",
        "modeling_mmtok_llava_onevision.py",
        ("onevision_images.py",),
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
