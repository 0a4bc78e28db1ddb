"""Small random stock checkpoints whose turns are marked by registered tokens, in the folder layout of published ones.

LLaVA-OneVision, Qwen-VL, and LLaVA-1.5 and LLaVA-NeXT with other parts than CLIP and Vicuna. Images are 24 x 24 with
patches of 6, which makes 16 tokens per crop; those of Qwen-VL keep their size, and a token is 6 x 6 pixels of them.
Processors, tokenizers and chat templates are the real classes and published forms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from small_checkpoints import (
    GRID_PINPOINTS,
    IMAGE_SIZE,
    PATCH_SIZE,
    TOKENS_PER_CROP,
    make_llava_checkpoint,
    make_llava_next_checkpoint,
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
_VIDEOS_FIRST = _IMAGES_FIRST.replace("'image'", "'video'").replace("<image>", "<video>")
_TEXTS = (
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}"
)
# The published templates: a space behind the role in OneVision's and the interleaved one, a line break in Yi's.
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    + _IMAGES_FIRST
    + _VIDEOS_FIRST
    + _TEXTS
    + "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + _IMAGES_FIRST
    + _VIDEOS_FIRST
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
    # Further tokens by the names that the processor asks the tokenizer for.
    names: dict[str, str] = field(default_factory=dict)


CHATML = Chat(CHATML_TEMPLATE, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|endoftext|>")
ONEVISION = Chat(ONEVISION_TEMPLATE, CHATML.markers, "<|im_end|>", "<|endoftext|>")
QWEN = Chat(
    QWEN_TEMPLATE,
    (*CHATML.markers, "<|vision_start|>", "<|vision_end|>"),
    "<|im_end|>",
    "<|endoftext|>",
    images=("<|image_pad|>", "<|video_pad|>"),
)
INTERNVL = Chat(
    CHATML_TEMPLATE.replace("<image>", "<IMG_CONTEXT>"),
    (*CHATML.markers, "<img>", "</img>"),
    "<|im_end|>",
    "<|endoftext|>",
    images=("<IMG_CONTEXT>", "<video>"),
    names={"context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>",
           "video_token": "<video>"},
)  # fmt: skip
_CONTENT = (
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}IMAGE"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
)
GEMMA = Chat(
    "{{ '<bos>' }}{% for message in messages %}{{ '<start_of_turn>' + message['role'].replace('assistant', 'model') "
    "+ '\n' }}" + _CONTENT.replace("IMAGE", "<start_of_image>") + "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
    "<eos>",
    "<pad>",
    "<bos>",
    images=("<image_soft_token>", "<video>"),
    names={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
)
GEMMA4 = Chat(
    GEMMA.template.replace("<start_of_turn>", "<|turn>")
    .replace("<end_of_turn>", "<turn|>")
    .replace("<start_of_image>", "<|image|>"),
    ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image>", "<image|>", "<|audio|>", "<|audio>", "<audio|>"),
    "<eos>",
    "<pad>",
    "<bos>",
    images=("<|image|>", "<|video|>"),
    names={
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    },
)
MISTRAL = Chat(
    "{{ '<s>' }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    + _CONTENT.replace("IMAGE", "[IMG]")
    + "[/INST]{% else %}{{ message['content'][0]['text'] + '</s>' }}{% endif %}{% endfor %}",
    ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    "</s>",
    "<pad>",
    "<s>",
    images=("[IMG]", "<video>"),
)
GLM = Chat(
    "[gMASK]<sop>\n{% for message in messages %}{% if message['role'] == 'user' %}<|user|>\n"
    + _CONTENT.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>").replace(
        "{% elif 'text'",
        "{% elif content['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>{% elif 'text'",
    )
    + "{% else %}<|assistant|>\n{{ message['content'][0]['text'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>",
     "<|begin_of_video|>", "<|end_of_video|>"),
    "<|endoftext|>",
    "<|endoftext|>",
    images=("<|image|>", "<|video|>"),
)  # fmt: skip
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
        tower, language: further fields of the configurations of tower and language model.
        needs_torchvision: whether its processor does in transformers.
        processor_class: where it is not named as the model's.
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
    processor_class: str = ""
    needs_torchvision: bool = True
    language: dict[str, Any] = field(default_factory=dict)


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

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# vLLM's kernels for the CPU want heads of at least 32, and write the state in this type unless told another.
_RECURRENT = {
    "mamba_ssm_dtype": "float32",
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_GLM_TOWER = {"depth": 3, "num_heads": 4, "out_hidden_size": 32, "patch_size": PATCH_SIZE // 2}
_GLM_ROPE = {
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [1, 1, 0],
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.5,
    }
}


def _glm(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the processors of images and of videos, whose classes are named so."""
    size = {"shortest_edge": 8 * PATCH_SIZE**2, "longest_edge": 8 * IMAGE_SIZE**2}
    return (
        {**_GRID_PIXELS, "image_processor_type": f"{name}ImageProcessor", "size": size},
        {**_GRID_PIXELS, "video_processor_type": f"{name}VideoProcessor"},
    )


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
    # Qwen/Qwen2-VL-*-Instruct
    "qwen2_vl": Parts(
        "Qwen2VL",
        QWEN,
        "qwen2",
        "qwen2_vl",
        {"rope_theta": 10.0},
        {},
        {**_GRID_PIXELS, "image_processor_type": "Qwen2VLImageProcessor"},
        {**_GRID_PIXELS, "video_processor_type": "Qwen2VLVideoProcessor"},
        {"embed_dim": 32, "mlp_ratio": 2},
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
    # Qwen/Qwen3-VL-*-A*B-Instruct
    "qwen3_vl_moe": Parts(
        "Qwen3VLMoe",
        QWEN,
        "qwen3_vl_moe_text",
        "qwen3_vl_moe",
        {},
        {},
        {**_GRID_PIXELS, "image_processor_type": "Qwen2VLImageProcessor"},
        {**_GRID_PIXELS, "video_processor_type": "Qwen3VLVideoProcessor", "size": _VIDEO_SIZE},
        processor_class="Qwen3VLProcessor",
        language={**_EXPERTS, "norm_topk_prob": True},
    ),
    # Qwen/Qwen3.5-*
    "qwen3_5": Parts(
        "Qwen3_5",
        QWEN,
        "qwen3_5_text",
        "qwen3_5",
        {},
        {},
        {**_GRID_PIXELS, "image_processor_type": "Qwen2VLImageProcessor"},
        {**_GRID_PIXELS, "video_processor_type": "Qwen3VLVideoProcessor", "size": _VIDEO_SIZE},
        processor_class="Qwen3VLProcessor",
        language=_RECURRENT,
    ),
    # Qwen/Qwen3.5-*-A*B
    "qwen3_5_moe": Parts(
        "Qwen3_5Moe",
        QWEN,
        "qwen3_5_moe_text",
        "qwen3_5_moe",
        {},
        {},
        {**_GRID_PIXELS, "image_processor_type": "Qwen2VLImageProcessor"},
        {**_GRID_PIXELS, "video_processor_type": "Qwen3VLVideoProcessor", "size": _VIDEO_SIZE},
        processor_class="Qwen3VLProcessor",
        language={**_RECURRENT, **_EXPERTS, "shared_expert_intermediate_size": 16},
    ),
    # OpenGVLab/InternVL3-*-hf
    "internvl": Parts(
        "InternVL",
        INTERNVL,
        "qwen2",
        "internvl_vision",
        {"image_seq_length": TOKENS_PER_CROP, "tie_word_embeddings": False},
        {"image_seq_length": TOKENS_PER_CROP},
        {
            **{name: _CLIP_PIXELS[name] for name in ("image_mean", "image_std", "rescale_factor", "resample")},
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": _SQUARE,
            "crop_to_patches": True,
            "max_patches": 4,
        },
        {"video_processor_type": "InternVLVideoProcessor", "size": _SQUARE},
        {"patch_size": PATCH_SIZE // 2},
    ),
    # google/gemma-3-*-it
    "gemma3": Parts(
        "Gemma3",
        GEMMA,
        "gemma3_text",
        "siglip_vision_model",
        {"mm_tokens_per_image": TOKENS_PER_CROP, "tie_word_embeddings": False},
        {"image_seq_length": TOKENS_PER_CROP},
        {**_SIGLIP_PIXELS, "image_processor_type": "Gemma3ImageProcessor", "size": _SQUARE},
        None,
        {"vision_use_head": False, "patch_size": PATCH_SIZE // 2},
        language={
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    # mistralai/Mistral-Small-3.*-Instruct
    "mistral3": Parts(
        "Mistral3",
        MISTRAL,
        "mistral",
        "pixtral",
        {
            "spatial_merge_size": 2,
            "vision_feature_layer": -1,
            "multimodal_projector_bias": False,
            "tie_word_embeddings": False,
        },
        {
            "patch_size": PATCH_SIZE // 2,
            "spatial_merge_size": 2,
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
        },
        {
            **{name: _CLIP_PIXELS[name] for name in ("image_mean", "image_std", "rescale_factor", "resample")},
            "image_processor_type": "PixtralImageProcessor",
            "size": {"longest_edge": 2 * IMAGE_SIZE},
            "patch_size": PATCH_SIZE // 2,
        },
        None,
        {"head_dim": 8, "image_size": 2 * IMAGE_SIZE, "patch_size": PATCH_SIZE // 2},
        processor_class="PixtralProcessor",
        language={"head_dim": 8},
    ),
    # google/gemma-4-31b-it
    "gemma4": Parts(
        "Gemma4",
        GEMMA4,
        "gemma4_text",
        "gemma4_vision",
        {"tie_word_embeddings": False},
        {
            "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor", "padding_side": "left"},
            "image_seq_length": 70,
        },
        {
            "image_processor_type": "Gemma4ImageProcessor",
            "patch_size": PATCH_SIZE // 2,
            "pooling_kernel_size": 2,
            "max_soft_tokens": 70,
            "do_normalize": False,
            "rescale_factor": 1 / 255,
            "resample": 3,
        },
        {"video_processor_type": "Gemma4VideoProcessor", "patch_size": PATCH_SIZE // 2, "pooling_kernel_size": 2},
        {
            "patch_size": PATCH_SIZE // 2,
            "pooling_kernel_size": 2,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "position_embedding_size": 512,
        },
        language={
            "head_dim": 8,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "use_bidirectional_attention": "vision",
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    # zai-org/GLM-4.1V-9B-Thinking
    "glm4v": Parts("Glm4v", GLM, "glm4v_text", "glm4v_vision", {}, {}, *_glm("Glm4v"), _GLM_TOWER, language=_GLM_ROPE),
    # zai-org/GLM-4.5V
    "glm4v_moe": Parts(
        "Glm4vMoe",
        GLM,
        "glm4v_moe_text",
        "glm4v_moe_vision",
        {},
        {},
        *_glm("Glm4v"),
        _GLM_TOWER,
        processor_class="Glm4vProcessor",
        language={
            **_GLM_ROPE,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    # zai-org/GLM-4.6V-Flash
    "glm46v": Parts(
        "Glm46V", GLM, "glm4v_text", "glm4v_vision", {}, {}, *_glm("Glm46V"), _GLM_TOWER, language=_GLM_ROPE
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
        needs_torchvision=False,
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
        needs_torchvision=False,
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
        needs_torchvision=False,
    ),
}


def make_checkpoint(folder: str | Path, kind: str, **settings: Any) -> Path:
    """Writes a stock checkpoint of a model type, those of `small_checkpoints` included."""
    makers = {"llava": make_llava_checkpoint, "llava_next": make_llava_next_checkpoint}
    return makers[kind](folder, **settings) if kind in makers else make_chat_checkpoint(folder, kind, **settings)


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
    text = {**sizes, "hidden_size": hidden_size, **parts.language}
    fields = _qwen_fields(text, parts, tokenizer) if parts.chat is QWEN else _llava_fields(text, parts, tokenizer)
    config = getattr(transformers, f"{parts.stock}Config")(**fields)
    model_class = getattr(transformers, f"{parts.stock}ForConditionalGeneration")
    model = random_model(model_class, config, seed)
    tensors = {_name(name, layout, parts): tensor.contiguous() for name, tensor in model.state_dict().items()}
    if kind == "glm4v_moe":
        tensors = _each_expert(tensors)
    elif kind == "qwen3_vl_moe":  # published the other way round
        tensors = {name: value.mT.contiguous() if ".experts." in name else value for name, value in tensors.items()}
    write_weights(folder, tensors, 1)
    # As they are published: what a later transformers would write of them, an earlier one does not read.
    saved = {
        **fields,
        "model_type": config.model_type,
        "architectures": [model_class.__name__],
        "torch_dtype": "float32",
    }
    write_json(folder / "config.json", saved)
    generation = {"_from_model_config": True, "eos_token_id": ids["eos"], "pad_token_id": ids["pad"]}
    write_json(folder / "generation_config.json", generation)
    return folder


def _llava_fields(text: dict[str, Any], parts: Parts, tokenizer: Tokenizer) -> dict[str, Any]:
    image, video = map(tokenizer.token_to_id, parts.chat.images)
    name = "index" if hasattr(getattr(transformers, f"{parts.stock}Config")(), "image_token_index") else "id"
    ids = {f"image_token_{name}": image}
    if parts.video:
        ids[f"video_token_{name}"] = video
    if parts.chat in (GEMMA, GEMMA4):
        ids |= {f"{token}_{name}": tokenizer.token_to_id(text) for token, text in parts.chat.names.items()}
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
    tower |= parts.tower
    if parts.stock == "Qwen2VL":
        tower = {name: value for name, value in tower.items() if name not in _WINDOWS} | {
            "hidden_size": text["hidden_size"]
        }
    if parts.stock.startswith("Qwen3"):
        others = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
        if parts.stock.startswith("Qwen3_5"):
            del others["deepstack_visual_indexes"]
        tower = {name: value for name, value in tower.items() if name not in _WINDOWS} | others
        width = text["hidden_size"] // text["num_attention_heads"]
        turned = width // 2 if parts.stock.startswith("Qwen3_5") else width
        rope = {
            "rope_type": "default",
            "mrope_section": [turned // 4, turned // 8, turned // 8],
            "mrope_interleaved": True,
            "partial_rotary_factor": turned / width,
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
    if parts.stock.startswith(("Qwen3", "Glm", "Gemma4")):
        return name  # as transformers names it
    if parts.stock in ("InternVL", "Mistral3"):
        return published_name(name, layout).replace("vision_tower.vision_model.", "vision_tower.")
    if parts.stock in ("Qwen2VL", "Qwen2_5_VL"):
        return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
    return published_name(name, layout)


def _each_expert(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GLM-4.5V's experts as published, each on its own."""
    apart = {}
    for name, tensor in tensors.items():
        before, together, projection = name.partition(".experts.")
        parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(projection)
        if not together or parts is None:
            apart[name] = tensor
            continue
        for number, expert in enumerate(tensor):
            for part, own in zip(parts, expert.chunk(len(parts)), strict=True):
                apart[f"{before}.experts.{number}.{part}.weight"] = own.contiguous()
    return apart


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
    processor = parts.processor_class or f"{parts.stock}Processor"
    flags = dict.fromkeys(("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True)
    write_json(folder / "preprocessor_config.json", {**flags, **parts.image, "processor_class": processor})
    if parts.video is not None:
        write_json(folder / "video_preprocessor_config.json", {**flags, **parts.video, "processor_class": processor})
    if parts.processor:
        token = {} if parts.chat.names else {"image_token": parts.chat.images[0]}
        settings = {**token, **parts.processor, "processor_class": processor}
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
            **({**parts.chat.names, "extra_special_tokens": parts.chat.names} if parts.chat.names else {}),
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
