"""The checkpoint folder: stock Qwen2.5-VL, in the key layout of the published repos."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.training.folder import PIXELS, write_model, write_processor
from mmtok.tiny.reading import TOKEN

from .architecture import PATCH, config_values
from .vocabulary import CHAT_TEMPLATE, build_tokenizer

_QWEN_KEYS = {"model.visual.": "visual.", "model.language_model.": "model.", "lm_head.": "lm_head."}
# Vision tokens of an image: larger ones are shrunk by the processor.
FEWEST, MOST = 16, 400


def export_checkpoint(
    model: Qwen2_5_VLForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write everything that `from_pretrained` needs into a folder; in bfloat16 the weights take 5 MB."""
    write_model(model, folder, _QWEN_KEYS, config_values(), dtype)
    pixels = {
        **PIXELS,
        "min_pixels": FEWEST * TOKEN**2,
        "max_pixels": MOST * TOKEN**2,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": TOKEN // PATCH,
    }
    owner = {"processor_class": "Qwen2_5_VLProcessor"}
    files = {
        "preprocessor_config": {"image_processor_type": "Qwen2VLImageProcessor", **owner, **pixels},
        "video_preprocessor_config": {"video_processor_type": "Qwen2VLVideoProcessor", **owner, **pixels},
    }
    write_processor(folder, build_tokenizer(), CHAT_TEMPLATE, files, **owner)
