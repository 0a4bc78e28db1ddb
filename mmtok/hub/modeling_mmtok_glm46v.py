"""GLM-4.6V that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width. Videos are not pruned: in a prompt their tokens are those of images. Weights, their names and
everything behind the prompt are `Glm46VForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Glm46VForConditionalGeneration

from .grids import ConvolvedModel


class MMTokGlm46VForConditionalGeneration(ConvolvedModel, Glm46VForConditionalGeneration, GenerationMixin):
    """`Glm46VForConditionalGeneration` that prunes the vision tokens of images."""
