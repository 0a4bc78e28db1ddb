"""Small random stock checkpoints whose turns are marked by registered tokens, in the folder layout of published ones.

LLaVA-OneVision, Qwen-VL, and LLaVA-1.5 and LLaVA-NeXT with other parts than CLIP and Vicuna. Images are 24 x 24 with
patches of 6, which makes 16 tokens per crop; those of Qwen-VL keep their size, and a token is 6 x 6 pixels of them.
Processors, tokenizers and chat templates are the real classes and published forms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from small_checkpoints import (
    GRID_PINPOINTS,
    IMAGE_SIZE,
    PATCH_SIZE,
    TOKENS_PER_CROP,
    published_name,
    random_model,
    write_json,
    write_weights,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "Is there a snowboard in the image? What does the sign say? Describe the cat. Read it. user system assistant",
    'x\nDescribe "Read" (cat) Which one?\n(a) snowboard\n(b) sign',
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
]
_IMAGES_FIRST = (
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
)
_TEXTS = (
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}"
)
# The published templates: a space behind the role in OneVision's and the interleaved one, a line break in Yi's.
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    + _IMAGES_FIRST
    + "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    + _TEXTS
    + "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + _IMAGES_FIRST
    + _TEXTS
    + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    + _IMAGES_FIRST
    + _TEXTS
    + "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Chat:
    """Tokens and template of a conversation."""

    template: str
    markers: tuple[str, ...]
    eos_token: str
    pad_token: str
    bos_token: str | None = None
    images: tuple[str, str] = ("<image>", "<video>")


CHATML = Chat(CHATML_TEMPLATE, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|endoftext|>")
ONEVISION = Chat(ONEVISION_TEMPLATE, CHATML.markers, "<|im_end|>", "<|endoftext|>")
QWEN = Chat(
    QWEN_TEMPLATE,
    (*CHATML.markers, "<|vision_start|>", "<|vision_end|>"),
    "<|im_end|>",
    "<|endoftext|>",
    images=("<|image_pad|>", "<|video_pad|>"),
)
LLAMA3 = Chat(
    LLAMA3_TEMPLATE,
    ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>"),
    "<|eot_id|>",
    "<pad>",
    "<|begin_of_text|>",
)


@dataclass(frozen=True)
class Parts:
    """What a checkpoint is made of.

    Attributes:
        stock: beginning of its classes' names in transformers.
        chat: tokens and template.
        text, vision: model types of language model and tower.
        config: further fields of its configuration.
        processor: fields of `processor_config.json`.
        image: fields of `preprocessor_config.json`.
        video: fields of `video_preprocessor_config.json`; None for a model without videos.
    """

    stock: str
    chat: Chat
    text: str
    vision: str
    config: dict[str, Any]
    processor: dict[str, Any]
    image: dict[str, Any]
    video: dict[str, Any] | None = None
    tower: dict[str, Any] = field(default_factory=dict)


_SIGLIP_PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "resample": 3}
_CLIP_PIXELS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_center_crop": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
}
_SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
_FULL = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
_DEFAULT = {"vision_feature_select_strategy": "default", "vision_feature_layer": -2}
_NEXT = {"image_grid_pinpoints": GRID_PINPOINTS, "image_seq_length": TOKENS_PER_CROP}
_NEXT_PROCESSOR = {
    "patch_size": PATCH_SIZE,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
_NEXT_PIXELS = {
    **_CLIP_PIXELS,
    "image_processor_type": "LlavaNextImageProcessor",
    "size": {"shortest_edge": IMAGE_SIZE},
    "image_grid_pinpoints": GRID_PINPOINTS,
}

_GRID_PIXELS = {
    "image_mean": _CLIP_PIXELS["image_mean"],
    "image_std": _CLIP_PIXELS["image_std"],
    "min_pixels": 4 * PATCH_SIZE**2,
    "max_pixels": 4 * IMAGE_SIZE**2,
    "patch_size": PATCH_SIZE // 2,
    "temporal_patch_size": 2,
    "merge_size": 2,
}

_VIDEO_SIZE = {"shortest_edge": 4 * PATCH_SIZE**2, "longest_edge": 16 * IMAGE_SIZE**2}

PARTS: dict[str, Parts] = {
    # llava-hf/llava-onevision-qwen2-*-ov-hf
    "llava_onevision": Parts(
        "LlavaOnevision",
        ONEVISION,
        "qwen2",
        "siglip_vision_model",
        {**_FULL, "image_grid_pinpoints": GRID_PINPOINTS, "vision_aspect_ratio": "anyres_max_2"},
        {
            "num_image_tokens": TOKENS_PER_CROP,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_2",
        },
        {
            **_SIGLIP_PIXELS,
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": _SQUARE,
            "image_grid_pinpoints": GRID_PINPOINTS,
        },
        {**_SIGLIP_PIXELS, "video_processor_type": "LlavaOnevisionVideoProcessor", "size": _SQUARE},
        {"vision_use_head": False},
    ),
    # Qwen/Qwen2.5-VL-*-Instruct
    "qwen2_5_vl": Parts(
        "Qwen2_5_VL",
        QWEN,
        "qwen2",
        "qwen2_5_vl",
        # Not the published 1,000,000: with heads this small, answers would not depend on rows and columns.
        {"rope_theta": 10.0},
        {},
        {**_GRID_PIXELS, "image_processor_type": "Qwen2VLImageProcessor"},
        {**_GRID_PIXELS, "video_processor_type": "Qwen2VLVideoProcessor"},
    ),
    # Qwen/Qwen3-VL-*-Instruct
    "qwen3_vl": Parts(
        "Qwen3VL",
        QWEN,
        "qwen3_vl_text",
        "qwen3_vl",
        {},
        {},
        {**_GRID_PIXELS, "image_processor_type": "Qwen2VLImageProcessor"},
        # Pixels of all frames together.
        {**_GRID_PIXELS, "video_processor_type": "Qwen3VLVideoProcessor", "size": _VIDEO_SIZE},
    ),
    # llava-hf/llava-interleave-qwen-*-hf
    "llava, interleaved": Parts(
        "Llava",
        CHATML,
        "qwen2",
        "siglip_vision_model",
        {**_FULL, "image_seq_length": TOKENS_PER_CROP},
        {"patch_size": PATCH_SIZE, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
        {**_SIGLIP_PIXELS, "image_processor_type": "SiglipImageProcessor", "size": _SQUARE},
        None,
        {"vision_use_head": False},
    ),
    # llava-hf/llama3-llava-next-8b-hf
    "llava_next, llama3": Parts(
        "LlavaNext",
        LLAMA3,
        "llama",
        "clip_vision_model",
        {**_DEFAULT, **_NEXT},
        _NEXT_PROCESSOR,
        _NEXT_PIXELS,
    ),
    # llava-hf/llava-v1.6-34b-hf
    "llava_next, yi": Parts(
        "LlavaNext",
        CHATML,
        "llama",
        "clip_vision_model",
        {**_DEFAULT, **_NEXT},
        _NEXT_PROCESSOR,
        _NEXT_PIXELS,
    ),
}


def make_chat_checkpoint(
    folder: str | Path, kind: str, *, layout: str = "llava-hf", seed: int = 0, hidden_size: int = 32
) -> Path:
    """Writes a stock checkpoint.

    Args:
        folder: where to; created.
        kind: of `PARTS`.
        layout: tensor names, as in `make_llava_checkpoint`.
        seed: of the weights.
        hidden_size: of the language model.
    """
    folder, parts = Path(folder), PARTS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_tokenizer((*parts.chat.markers, *parts.chat.images))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_settings(folder, parts)
    ids = {name: tokenizer.token_to_id(getattr(parts.chat, f"{name}_token")) for name in ("eos", "pad")}
    sizes = _text_config(parts.text, -(-tokenizer.get_vocab_size() // 64) * 64, ids)
    text = {**sizes, "hidden_size": hidden_size}
    fields = _qwen_fields(text, parts, tokenizer) if parts.chat is QWEN else _llava_fields(text, parts, tokenizer)
    config = getattr(transformers, f"{parts.stock}Config")(**fields)
    model_class = getattr(transformers, f"{parts.stock}ForConditionalGeneration")
    model = random_model(model_class, config, seed)
    tensors = {_name(name, layout, parts): tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_weights(folder, tensors, 1)
    written = {**fields, "model_type": kind} if parts.chat is QWEN else json.loads(config.to_json_string())
    saved = {**written, "architectures": [model_class.__name__], "torch_dtype": "float32"}
    saved.pop("dtype", None)
    write_json(folder / "config.json", saved)
    generation = {"_from_model_config": True, "eos_token_id": ids["eos"], "pad_token_id": ids["pad"]}
    write_json(folder / "generation_config.json", generation)
    return folder


def _llava_fields(text: dict[str, Any], parts: Parts, tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {"image_token_index": tokenizer.token_to_id("<image>")}
    if parts.video:
        ids["video_token_index"] = tokenizer.token_to_id("<video>")
    tower = {"model_type": parts.vision, **_TOWER, **parts.tower}
    return {"text_config": text, "vision_config": tower, **ids, **parts.config}


def _qwen_fields(text: dict[str, Any], parts: Parts, tokenizer: Tokenizer) -> dict[str, Any]:
    """As published: of Qwen2.5-VL the language model's fields stand beside the others."""
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": tokenizer.token_to_id(f"<|{token}|>") for name, token in names.items()}
    tower = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": text["hidden_size"],
        "patch_size": PATCH_SIZE // 2,
        "window_size": 2 * PATCH_SIZE,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    if parts.stock == "Qwen3VL":
        others = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
        tower = {name: value for name, value in tower.items() if name not in _WINDOWS} | others
        width = text["hidden_size"] // text["num_attention_heads"]
        rope = {
            "rope_type": "default",
            "mrope_section": [width // 4, width // 8, width // 8],
            "mrope_interleaved": True,
        }
        return {
            "text_config": {**text, "head_dim": width, "rope_scaling": rope, "rope_theta": 5000000},
            "vision_config": tower,
            **ids,
        }
    own = {name: value for name, value in text.items() if name != "model_type"}
    own["bos_token_id"] = own["pad_token_id"]
    # Half of a head is turned by time, a quarter by height and a quarter by width.
    pairs = text["hidden_size"] // text["num_attention_heads"] // 2
    own["rope_scaling"] = {"type": "mrope", "mrope_section": [pairs // 2, pairs // 4, pairs // 4]}
    return {**own, "vision_config": tower, **ids, **parts.config}


def _name(name: str, layout: str, parts: Parts) -> str:
    """The published name of a tensor; Qwen2.5-VL's have neither "model." in front of the tower nor "language_model"."""
    if parts.stock == "Qwen3VL":
        return name  # as transformers names it
    if parts.stock == "Qwen2_5_VL":
        return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
    return published_name(name, layout)


# Fields of a tower with windows.
_WINDOWS = ("window_size", "fullatt_block_indexes", "tokens_per_second")
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}


def _text_config(model_type: str, vocabulary: int, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["pad"],
    }


def _write_settings(folder: Path, parts: Parts) -> None:
    processor = f"{parts.stock}Processor"
    flags = dict.fromkeys(("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True)
    write_json(folder / "preprocessor_config.json", {**flags, **parts.image, "processor_class": processor})
    if parts.video is not None:
        write_json(folder / "video_preprocessor_config.json", {**flags, **parts.video, "processor_class": processor})
    if parts.processor:
        settings = {"image_token": "<image>", **parts.processor, "processor_class": processor}
        write_json(folder / "processor_config.json", settings)
    write_json(folder / "chat_template.json", {"chat_template": parts.chat.template})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": parts.chat.bos_token,
            "clean_up_tokenization_spaces": False,
            "eos_token": parts.chat.eos_token,
            "model_max_length": 2048,
            "pad_token": parts.chat.pad_token,
            "padding_side": "left",
            "processor_class": processor,
            "tokenizer_class": "Qwen2Tokenizer" if parts.text == "qwen2" else "PreTrainedTokenizerFast",
        },
    )


def byte_level_tokenizer(special_tokens: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE in the form of Qwen's and Llama 3's, trained on a few sentences: the same ids every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 9, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return tokenizer
