"""What the plugin relies on in vLLM, checked before a model class is made.

vLLM's interfaces for multimodal models change between minor releases. An override whose method vLLM no longer calls
would leave images unpruned, or serve one question the tokens of another, without any error: so each is looked up first.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any

# The releases that the tests have passed on, of the last with its Python files: from, and up to but without.
TESTED = ((0, 31), (0, 34))

_LLAVA, _NEXT, _ONEVISION, _QWEN = (
    f"vllm.model_executor.models.{name}" for name in ("llava", "llava_next", "llava_onevision", "qwen2_5_vl")
)
_QWEN_MODEL = f"{_QWEN}:Qwen2_5_VLForConditionalGeneration"
_QWEN3 = "vllm.model_executor.models.qwen3_vl"
_QWEN3_MODEL = f"{_QWEN3}:Qwen3VLForConditionalGeneration"
# Their images and videos are those of Qwen3-VL.
_LIKE_QWEN3 = tuple(
    f"vllm.model_executor.models.{place}ForConditionalGeneration"
    for place in ("qwen3_vl_moe:Qwen3VLMoe", "qwen3_5:Qwen3_5")
)
_QWEN2 = "vllm.model_executor.models.qwen2_vl"
_PROCESSING = "vllm.multimodal.processing"

# Methods that the plugin overrides: vLLM has to call them with just these arguments.
OVERRIDDEN = {
    f"{_PROCESSING}:BaseMultiModalProcessor.apply": ["inputs", "timing_ctx"],
    f"{_PROCESSING}:BaseMultiModalProcessor.get_dummy_inputs": ["seq_len", "mm_counts", "mm_options"],
    f"{_PROCESSING}:BaseMultiModalProcessor._apply_hf_processor_main": ["mm_items", "hf_kwargs"],
    f"{_PROCESSING}:BaseMultiModalProcessor._get_hf_mm_inputs": ["mm_items", "hf_kwargs"],
    f"{_ONEVISION}:LlavaOnevisionMultiModalProcessor._apply_hf_processor_main": ["mm_items", "hf_kwargs"],
    f"{_LLAVA}:LlavaMultiModalProcessor._get_mm_fields_config": ["hf_inputs", "hf_processor_mm_kwargs"],
    f"{_NEXT}:LlavaNextMultiModalProcessor._get_mm_fields_config": ["hf_inputs", "hf_processor_mm_kwargs"],
    f"{_ONEVISION}:LlavaOnevisionMultiModalProcessor._get_mm_fields_config": ["hf_inputs", "hf_processor_mm_kwargs"],
    f"{_LLAVA}:LlavaMultiModalProcessor._get_prompt_updates": ["mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"],
    f"{_ONEVISION}:LlavaOnevisionMultiModalProcessor._get_prompt_updates": [
        "mm_items",
        "hf_processor_mm_kwargs",
        "out_mm_kwargs",
    ],
    f"{_PROCESSING}:BaseProcessingInfo.get_mm_max_tokens_per_item": ["seq_len", "mm_counts"],
    f"{_LLAVA}:LlavaForConditionalGeneration.embed_multimodal": ["kwargs"],
    f"{_NEXT}:LlavaNextForConditionalGeneration.embed_multimodal": ["kwargs"],
    f"{_ONEVISION}:LlavaOnevisionForConditionalGeneration.embed_multimodal": ["kwargs"],
    f"{_ONEVISION}:LlavaOnevisionProcessingInfo.get_image_size_with_most_features": [],
    f"{_LLAVA}:LlavaForConditionalGeneration.load_weights": ["weights"],
    f"{_NEXT}:LlavaNextForConditionalGeneration.load_weights": ["weights"],
    f"{_ONEVISION}:LlavaOnevisionForConditionalGeneration.load_weights": ["weights"],
    f"{_QWEN}:Qwen2_5_VLMultiModalProcessor._get_hf_mm_inputs": ["mm_items", "hf_kwargs"],
    f"{_QWEN}:Qwen2_5_VLMultiModalProcessor._get_mm_fields_config": ["hf_inputs", "hf_processor_mm_kwargs"],
    f"{_QWEN}:Qwen2_5_VLMultiModalProcessor._get_prompt_updates": [
        "mm_items",
        "hf_processor_mm_kwargs",
        "out_mm_kwargs",
    ],
    f"{_QWEN}:Qwen2_5_VisionPatchMerger.forward": ["x"],
    f"{_QWEN_MODEL}.embed_multimodal": ["kwargs"],
    f"{_QWEN_MODEL}.load_weights": ["weights"],
    f"{_QWEN_MODEL}.get_mrope_input_positions": ["input_tokens", "mm_features"],
    f"{_QWEN_MODEL}.recompute_mrope_positions": [
        "input_ids",
        "multimodal_embeddings",
        "mrope_positions",
        "num_computed_tokens",
    ],
    f"{_QWEN_MODEL}.embed_input_ids": ["input_ids", "multimodal_embeddings", "is_multimodal"],
    f"{_QWEN_MODEL}.forward": ["input_ids", "positions", "intermediate_tensors", "inputs_embeds", "kwargs"],
    f"{_QWEN_MODEL}._postprocess_image_embeds_evs": ["image_embeds_split", "image_input"],
    f"{_QWEN_MODEL}._postprocess_video_embeds_evs": ["video_embeds_split", "video_input"],
}

# The other Qwen models, by their own methods.
OVERRIDDEN |= {
    place.replace(_QWEN_MODEL, model): names
    for place, names in OVERRIDDEN.items()
    for model in (_QWEN3_MODEL, *_LIKE_QWEN3)
    if _QWEN_MODEL in place
}
OVERRIDDEN |= {
    f"{_QWEN3}:Qwen3_VisionPatchMerger.forward": ["x"],
    f"{_QWEN3}:Qwen3VLMultiModalProcessor._apply_hf_processor_main": ["mm_items", "hf_kwargs"],
    f"{_QWEN3}:Qwen3VLMultiModalProcessor._get_mm_fields_config": ["hf_inputs", "hf_processor_mm_kwargs"],
    f"{_QWEN3}:Qwen3VLMultiModalProcessor._get_prompt_updates": [
        "mm_items",
        "hf_processor_mm_kwargs",
        "out_mm_kwargs",
    ],
}

_VISION_INFO = ("image_width", "image_height", "num_frames", "image_processor", "mm_kwargs", "modality")
# What the plugin calls or asks for, with the arguments that it gives.
CALLED = {
    f"{_PROCESSING}:ProcessorInputs": ["prompt", "mm_data_items", "hf_processor_mm_kwargs"],
    f"{_PROCESSING}:PromptReplacement": ["modality", "target", "replacement"],
    "vllm.multimodal.inputs:MultiModalFieldConfig.batched": ["modality", "keep_on_cpu"],
    "vllm.multimodal.parse:ImageProcessorItems.get_image_size": ["item_idx"],
    "vllm.multimodal.parse:EmbeddingItems": [],
    "vllm.multimodal.parse:DictEmbeddingItems": [],
    f"{_LLAVA}:LlavaProcessingInfo.get_max_image_tokens": [],
    f"{_LLAVA}:LlavaDummyInputsBuilder": [],
    f"{_LLAVA}:LlavaForConditionalGeneration._parse_and_validate_image_input": [],
    f"{_LLAVA}:LlavaForConditionalGeneration._image_pixels_to_features": ["vision_tower", "pixel_values"],
    f"{_NEXT}:LlavaNextProcessingInfo": [],
    f"{_NEXT}:LlavaNextForConditionalGeneration._parse_and_validate_image_input": [],
    f"{_NEXT}:LlavaNextForConditionalGeneration._image_pixels_to_features": ["vision_tower", "pixel_values"],
    f"{_NEXT}:LlavaNextForConditionalGeneration._merge_image_patch_embeddings": [
        "image_size",
        "patch_embeddings",
        "strategy",
    ],
    "vllm.multimodal.parse:ImageSize": ["width", "height"],
    "vllm.multimodal.parse:MultiModalDataItems.get_count": ["modality", "strict"],
    f"{_ONEVISION}:LlavaOnevisionProcessingInfo.get_max_image_tokens": [],
    f"{_ONEVISION}:LlavaOnevisionProcessingInfo.get_max_video_tokens": ["seq_len", "mm_counts"],
    f"{_ONEVISION}:LlavaOnevisionDummyInputsBuilder": [],
    f"{_ONEVISION}:LlavaOnevisionForConditionalGeneration._parse_and_validate_image_input": [],
    f"{_ONEVISION}:LlavaOnevisionForConditionalGeneration._parse_and_validate_video_input": [],
    f"{_ONEVISION}:LlavaOnevisionForConditionalGeneration.apply_pooling": ["image_features"],
    f"{_ONEVISION}:LlavaOnevisionForConditionalGeneration._image_pixels_to_features": ["vision_tower", "pixel_values"],
    f"{_QWEN}:Qwen2_5_VLProcessingInfo.get_max_image_tokens": [],
    f"{_QWEN}:Qwen2_5_VLDummyInputsBuilder": [],
    f"{_QWEN}:Qwen2_5_VisionTransformer.forward": ["x", "grid_thw"],
    f"{_QWEN_MODEL}._parse_and_validate_image_input": [],
    f"{_QWEN_MODEL}._parse_and_validate_video_input": [],
    f"{_QWEN3_MODEL}._parse_and_validate_image_input": [],
    f"{_QWEN3_MODEL}._parse_and_validate_video_input": [],
    **{model.replace("ForConditionalGeneration", "ProcessingInfo"): [] for model in _LIKE_QWEN3},
    # By which vLLM settles further fields of its configuration.
    "vllm.model_executor.models.config:MODELS_CONFIG_MAP": [],
    f"{_QWEN3}:Qwen3_VisionTransformer.forward": ["x", "grid_thw"],
    f"{_QWEN3}:Qwen3VLMultiModalProcessor.get_video_repl": [
        "tokens_per_frame",
        "timestamps",
        "tokenizer",
        "vision_start_token_id",
        "vision_end_token_id",
        "video_token_id",
        "select_token_id",
    ],
    f"{_QWEN3}:Qwen3VLMultiModalProcessor._expands_only_video_token": ["hf_processor"],
    "vllm.multimodal.inputs:PlaceholderRange.get_num_embeds": [],
    "vllm.multimodal.inputs:MultiModalFeatureSpec": ["data", "modality", "mm_position"],
    "vllm.multimodal.inputs:PlaceholderRange": ["offset", "length"],
    "vllm.multimodal.registry:MultiModalRegistry.get_processing_info": ["model_config"],
    f"{_QWEN2}:Qwen2VLProcessingInfo._get_vision_info": [*_VISION_INFO],
    f"{_QWEN3}:Qwen3VLProcessingInfo._get_vision_info": [*_VISION_INFO],
    # By which vLLM's runner is asked to ask for positions.
    "vllm.config.multimodal:MultiModalConfig": ["video_pruning_rate", "mm_encoder_tp_mode"],
    "vllm.config.multimodal:MultiModalConfig.is_multimodal_pruning_enabled": [],
    "vllm.model_executor.models.interfaces:supports_multimodal_pruning": [],
    # By which model runner 2 asks.
    "vllm.v1.worker.gpu.model_states.mm_pruning:MultiModalPruner.recompute": ["mm_embeds", "input_batch", "req_states"],
}


def require_interfaces() -> None:
    """Raises a RuntimeError that names the installed vLLM unless it has all that the plugin relies on."""
    from vllm import __version__

    problems = list(_problems())
    if problems:
        raise RuntimeError(
            f"MMTok cannot serve this model with vLLM {__version__}: {'; '.join(problems)}. The plugin has been tested "
            f"with {_range()}: install one of these, or a newer mmtok."
        )
    release = tuple(int(part) for part in __version__.split(".")[:2] if part.isdecimal())
    if not TESTED[0] <= release < TESTED[1]:
        logging.getLogger(__name__).warning(
            "MMTok has been tested with %s, and this is vLLM %s; all of the interfaces that it relies on are there.",
            _range(),
            __version__,
        )


def _range() -> str:
    first, end = (".".join(map(str, release)) for release in TESTED)
    return f"vLLM {first} up to, but without, {end}"


def _problems() -> Iterator[str]:
    for table, exact in ((OVERRIDDEN, True), (CALLED, False)):
        for place, wanted in table.items():
            found = _find(place)
            if found is None:
                yield f"there is no {place.replace(':', '.')}"
                continue
            if not wanted:
                continue
            names = [name for name in inspect.signature(found).parameters if name != "self"]
            if (exact and names != wanted) or not set(wanted) <= set(names):
                yield f"{place.replace(':', '.')} takes ({', '.join(names)}) instead of ({', '.join(wanted)})"
    if _find(f"{_PROCESSING}:ProcessorInputs") is not None and not _options_are_hashed():
        yield "the keys of its caches leave the options of a request out"


def _find(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = import_module(module)
    except ImportError:
        return None
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _options_are_hashed() -> bool:
    """Whether one image has two keys in vLLM's caches when the options of the request differ."""
    from PIL import Image
    from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems
    from vllm.multimodal.processing import ProcessorInputs

    items = MultiModalDataItems({"image": ImageProcessorItems([Image.new("RGB", (2, 2))])})
    keys = [
        ProcessorInputs([0], items, hf_processor_mm_kwargs={"mmtok_request": text}).get_mm_hashes("model", "sha256")
        for text in ("one question", "another")
    ]
    return keys[0] != keys[1]
