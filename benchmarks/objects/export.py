"""The checkpoint folder: stock LLaVA, in the key layout of the llava-hf repos."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from benchmarks.training.folder import PIXELS, write_model, write_processor
from mmtok.tiny.backgrounds import SIDE
from mmtok.tiny.scenes import PATCH

from .architecture import config_values
from .vocabulary import CHAT_TEMPLATE, IMAGE, build_tokenizer

# From the names in memory to those of the llava-hf repos. Some versions have dropped the tower's inner "vision_model".
_LLAVA_HF_KEYS = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.vision_model.": "vision_tower.vision_model.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


def export_checkpoint(model: LlavaForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write everything that `from_pretrained` needs into a folder; in float16 the weights take 5 MB."""
    write_model(model, folder, _LLAVA_HF_KEYS, config_values(), dtype)
    export_processor(folder)


def export_processor(folder: Path) -> None:
    """Write the tokenizer, the image processor and the chat template, as `AutoProcessor` reads them."""
    owner = {"processor_class": "LlavaProcessor"}
    files = {
        "preprocessor_config": {
            "image_processor_type": "CLIPImageProcessor",
            **owner,
            **PIXELS,
            "size": {"shortest_edge": SIDE},
            "do_center_crop": True,
            "crop_size": {"height": SIDE, "width": SIDE},
        },
        "processor_config": {
            **owner,
            "image_token": IMAGE,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    }
    write_processor(folder, build_tokenizer(), CHAT_TEMPLATE, files, **owner, image_token=IMAGE)
