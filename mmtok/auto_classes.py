"""The Auto classes of transformers that lead to the classes of this package."""

from __future__ import annotations

# Those that a staged folder names too; releases of transformers before 5 have no AutoModelForMultimodalLM.
AUTOMATIC: tuple[str, ...] = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def register(config_class: type, model_class: type) -> None:
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
