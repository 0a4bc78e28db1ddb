"""The baseline that prunes nothing: the image, shrunk to about as many tokens as a budget keeps, is read whole."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

import torch
from PIL import Image

from configuration_mmtok import PruningOptions
from mmtok.hub.families import family_of
from mmtok.hub.images import Layout

from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Resizing:
    """A method that is not a selector: the processor gets a smaller image, and the language model reads all of it."""

    name: str = "resized"


RESIZED = Resizing()


def why_not_resized(model_class: Any, config: Any) -> str:
    """A sentence that says why a smaller image has no fewer tokens; "" where it has.

    Args:
        model_class: with pruning.
        config: of the model.
    """
    if hasattr(model_class.geometry_class, "side"):
        return ""
    return (
        f"{RESIZED.name}: a crop of {family_of(config.model_type).title} has as many tokens whatever the size of the "
        "image, so that a smaller image is not a baseline. It is one where the tokens follow the size, as in Qwen-VL."
    )


def shrunk_grid(rows: int, columns: int, tokens: int) -> tuple[int, int]:
    """The largest grid of at most so many tokens that has about the shape of one of `rows` x `columns`."""
    scale = min(1.0, sqrt(tokens / (rows * columns)))
    fewer = max(1, min(tokens, round(rows * scale)))
    return fewer, max(1, min(tokens // fewer, ceil(columns * scale)))


def shrunk_inputs(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    images: Sequence[Image.Image],
    layouts: Sequence[Layout],
    budget: int | float,
) -> dict[str, torch.Tensor]:
    """A batch as `Checkpoint.inputs` makes it, of smaller images.

    Args:
        checkpoint: the model.
        texts, images: of the prompts.
        layouts: of the images, where they are not shrunk.
        budget: the most tokens of an image, or the largest share of its own as a float.
    """
    options, side, smaller = PruningOptions(vision_token_budget=budget), checkpoint.model.geometry.side, []
    for image, layout in zip(images, layouts, strict=True):
        rows, columns = (int(part.max()) + 1 for part in (layout.row, layout.column))
        rows, columns = shrunk_grid(rows, columns, options.budget_of(rows * columns))
        smaller.append(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    # The image has its size by now, which a processor with a least one would enlarge.
    processor = copy(checkpoint.processor)
    processor.image_processor = copy(processor.image_processor)
    processor.image_processor.do_resize = False
    return replace(checkpoint, processor=processor).inputs(texts, smaller)
