"""GLM-4.1V that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width. Videos are not pruned: in a prompt their tokens are those of images. Weights, their names and
everything behind the prompt are `Glm4vForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Glm4vForConditionalGeneration

from .grids import ConvolvedModel


class MMTokGlm4vForConditionalGeneration(ConvolvedModel, Glm4vForConditionalGeneration, GenerationMixin):
    """`Glm4vForConditionalGeneration` that prunes the vision tokens of images."""
