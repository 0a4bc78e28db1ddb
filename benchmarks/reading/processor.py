"""Qwen2.5-VL's processor for images alone: stock's own needs torchvision, for its videos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature
from transformers.utils import is_torchvision_available

from mmtok.evaluation.checkpoint import Checkpoint


class QwenImageProcessor:
    """What `Checkpoint` and the tests use of a processor; tokens and pixels are those of stock's."""

    def __init__(self, path: str | Path) -> None:
        self.image_processor = AutoImageProcessor.from_pretrained(path)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.chat_template = self.tokenizer.chat_template
        self.apply_chat_template = partial(self.tokenizer.apply_chat_template, tokenize=False)
        self.batch_decode = self.tokenizer.batch_decode

    def __call__(self, images: Sequence[Image.Image], text: Sequence[str], **settings: Any) -> BatchFeature:
        """Prepare prompts with one image each; `settings` are those of the tokenizer."""
        pixels = self.image_processor(list(images), return_tensors="pt")
        counts = pixels["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2
        image = "<|image_pad|>"
        prompts = [one.replace(image, image * int(count)) for one, count in zip(text, counts, strict=True)]
        read = self.tokenizer(prompts, **settings)
        kinds = (read["input_ids"] == self.tokenizer.convert_tokens_to_ids(image)).int()
        return BatchFeature({**read, **pixels, "mm_token_type_ids": kinds})


def load_qwen(path: str | Path) -> Checkpoint:
    """Load a checkpoint or a staged folder with its own processor, or with the above where torchvision is missing."""
    return Checkpoint.load(path, processor=None if is_torchvision_available() else QwenImageProcessor(path))
