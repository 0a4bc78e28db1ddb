"""Small random stock checkpoints whose turns are marked by registered tokens, in the folder layout of published ones.

LLaVA-OneVision, and LLaVA-1.5 and LLaVA-NeXT with other parts than CLIP and Vicuna. Images are 24 x 24 with patches of
6, which makes 16 tokens per crop. Processors, tokenizers and chat templates are the real classes and published forms.
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


CHATML = Chat(CHATML_TEMPLATE, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|endoftext|>")
ONEVISION = Chat(ONEVISION_TEMPLATE, CHATML.markers, "<|im_end|>", "<|endoftext|>")
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
    tokenizer = byte_level_tokenizer((*parts.chat.markers, "<image>", "<video>"))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_settings(folder, parts)
    ids = {name: tokenizer.token_to_id(getattr(parts.chat, f"{name}_token")) for name in ("eos", "pad")}
    config = getattr(transformers, f"{parts.stock}Config")(
        text_config={
            **_text_config(parts.text, -(-tokenizer.get_vocab_size() // 64) * 64, ids),
            "hidden_size": hidden_size,
        },
        vision_config={"model_type": parts.vision, **_TOWER, **parts.tower},
        image_token_index=tokenizer.token_to_id("<image>"),
        **({"video_token_index": tokenizer.token_to_id("<video>")} if parts.video else {}),
        **parts.config,
    )
    model_class = getattr(transformers, f"{parts.stock}ForConditionalGeneration")
    model = random_model(model_class, config, seed)
    tensors = {published_name(name, layout): tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_weights(folder, tensors, 1)
    saved = {**json.loads(config.to_json_string()), "architectures": [model_class.__name__], "torch_dtype": "float32"}
    saved.pop("dtype", None)
    write_json(folder / "config.json", saved)
    generation = {"_from_model_config": True, "eos_token_id": ids["eos"], "pad_token_id": ids["pad"]}
    write_json(folder / "generation_config.json", generation)
    return folder


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
    write_json(
        folder / "processor_config.json", {"image_token": "<image>", **parts.processor, "processor_class": processor}
    )
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
