"""The pipeline "image-text-to-text" that takes the options of the pruning among its own arguments.

transformers' own pipeline hands an argument that it does not know to the processor, which ignores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import ImageTextToTextPipeline

from .options import OPTION_NAMES, check_option


class MMTokImageTextToTextPipeline(ImageTextToTextPipeline):
    """`ImageTextToTextPipeline` whose calls take pruning options: `pipe(image, text=prompt, vision_token_budget=16)`.

    An option that is given when the pipeline is made holds for every call that does not give another value.
    `generate_kwargs` may hold options as well.

    Raises:
        ValueError: an option out of range, or given both as an argument and in `generate_kwargs`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Arguments of a call replace `generate_kwargs` of the pipeline as a whole, so that these are kept apart.
        self.pruning_options = _options_among(kwargs)
        super().__init__(*args, **kwargs)

    def _sanitize_parameters(
        self, generate_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Transformers' place for arguments of a pipeline of one's own: sorts those of a call."""
        options, given = _options_among(kwargs), dict(generate_kwargs or {})
        for name in options:
            if name in given:
                raise ValueError(
                    f"{name} is given twice, as {options[name]!r} and in generate_kwargs as {given[name]!r}: leave one "
                    "out."
                )
        given = {**self.pruning_options, **given, **options}
        return super()._sanitize_parameters(generate_kwargs=given or None, **kwargs)


def _options_among(arguments: dict[str, Any]) -> dict[str, Any]:
    """Takes the pruning options out of some arguments."""
    options = {name: arguments.pop(name) for name in OPTION_NAMES if name in arguments}
    for name, value in options.items():
        check_option(name, value)
    return options
