"""GLM-4.1V, 4.5V and 4.6V that read only the vision tokens which cover the question and the image.

A modification of transformers' models: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width. Videos are not pruned: in a prompt their tokens are those of images. Weights, their names and
everything behind the prompt are the stock classes' own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    GenerationMixin,
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm46VForConditionalGeneration,
)

from .grids import GridModel
from .images import Layout


class ConvolvedModel(GridModel):
    """As `GridModel` with images alone; a convolution makes a vector of each square of patches, then comes `merger`."""

    video_arguments = ()
    frame = ""

    def raw_of(self, given: torch.Tensor, layouts: Sequence[Layout]) -> Sequence[torch.Tensor]:
        """For each image (T, d), its tokens before the projector, which are its input."""
        return given.split([len(layout.source) for layout in layouts])


class MMTokGlm4vForConditionalGeneration(ConvolvedModel, Glm4vForConditionalGeneration, GenerationMixin):
    """`Glm4vForConditionalGeneration` that prunes the vision tokens of images."""


class MMTokGlm4vMoeForConditionalGeneration(ConvolvedModel, Glm4vMoeForConditionalGeneration, GenerationMixin):
    """`Glm4vMoeForConditionalGeneration` that prunes the vision tokens of images."""


class MMTokGlm46VForConditionalGeneration(ConvolvedModel, Glm46VForConditionalGeneration, GenerationMixin):
    """`Glm46VForConditionalGeneration` that prunes the vision tokens of images."""
