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

# Where vLLM has what is named below.
_PLACES = {
    "llava": "vllm.model_executor.models.llava:Llava",
    "next": "vllm.model_executor.models.llava_next:LlavaNext",
    "onevision": "vllm.model_executor.models.llava_onevision:LlavaOnevision",
    "qwen2": "vllm.model_executor.models.qwen2_vl:Qwen2VL",
    "qwen2_5": "vllm.model_executor.models.qwen2_5_vl:Qwen2_5_VL",
    "qwen2_5_tower": "vllm.model_executor.models.qwen2_5_vl:Qwen2_5_Vision",
    "qwen3": "vllm.model_executor.models.qwen3_vl:Qwen3VL",
    "qwen3_tower": "vllm.model_executor.models.qwen3_vl:Qwen3_Vision",
    "qwen3_moe": "vllm.model_executor.models.qwen3_vl_moe:Qwen3VLMoe",
    "qwen3_5": "vllm.model_executor.models.qwen3_5:Qwen3_5",
    "processor": "vllm.multimodal.processing:BaseMultiModalProcessor",
    "processing": "vllm.multimodal.processing:",
    "inputs": "vllm.multimodal.inputs:",
    "parse": "vllm.multimodal.parse:",
    "registry": "vllm.multimodal.registry:",
    "config": "vllm.config.multimodal:",
    "models": "vllm.model_executor.models.",
    "runner": "vllm.v1.worker.gpu.model_states.mm_pruning:",
}
_QWENS = "qwen2_5,qwen3,qwen3_moe,qwen3_5"


def _table(text: str) -> dict[str, list[str]]:
    """Places in vLLM and the arguments there, of lines such as `llava,next MultiModalProcessor.apply(inputs)`."""
    table = {}
    for line in text.split("\n"):
        where, _, signature = line.partition(" ")
        name, _, arguments = signature.removesuffix(")").partition("(")
        for each in where.split(",") if where else ():
            table[_PLACES[each] + name] = [own for own in arguments.split(", ") if own]
    return table


# Methods that the plugin overrides: vLLM has to call them with just these arguments.
OVERRIDDEN = _table(
    f"""
processor .apply(inputs, timing_ctx)
processor .get_dummy_inputs(seq_len, mm_counts, mm_options)
processor ._apply_hf_processor_main(mm_items, hf_kwargs)
processor ._get_hf_mm_inputs(mm_items, hf_kwargs)
processing BaseProcessingInfo.get_mm_max_tokens_per_item(seq_len, mm_counts)
onevision,qwen3 MultiModalProcessor._apply_hf_processor_main(mm_items, hf_kwargs)
qwen2_5 MultiModalProcessor._get_hf_mm_inputs(mm_items, hf_kwargs)
llava,next,onevision,qwen2_5,qwen3 MultiModalProcessor._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
llava,onevision,qwen2_5,qwen3 MultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
onevision ProcessingInfo.get_image_size_with_most_features()
qwen3_5 ProcessingInfo.get_hf_config()
qwen3_5 MoeProcessingInfo.get_hf_config()
llava,next,onevision,{_QWENS} ForConditionalGeneration.embed_multimodal(kwargs)
llava,next,onevision,{_QWENS} ForConditionalGeneration.load_weights(weights)
qwen2_5_tower,qwen3_tower PatchMerger.forward(x)
{_QWENS} ForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)
{_QWENS} ForConditionalGeneration.recompute_mrope_positions(input_ids, multimodal_embeddings, mrope_positions, \
num_computed_tokens)
{_QWENS} ForConditionalGeneration.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal)
{_QWENS} ForConditionalGeneration.forward(input_ids, positions, intermediate_tensors, inputs_embeds, kwargs)
{_QWENS} ForConditionalGeneration._postprocess_image_embeds_evs(image_embeds_split, image_input)
{_QWENS} ForConditionalGeneration._postprocess_video_embeds_evs(video_embeds_split, video_input)
"""
)

# What the plugin calls or asks for, with the arguments that it gives. By the map of configurations vLLM settles further
# fields of its configuration; by the methods of positions and pruning its runners are asked to ask for positions.
CALLED = _table(
    """
processing ProcessorInputs(prompt, mm_data_items, hf_processor_mm_kwargs)
processing PromptReplacement(modality, target, replacement)
inputs MultiModalFieldConfig.batched(modality, keep_on_cpu)
inputs PlaceholderRange.get_num_embeds
inputs PlaceholderRange(offset, length)
inputs MultiModalFeatureSpec(data, modality, mm_position)
parse ImageProcessorItems.get_image_size(item_idx)
parse EmbeddingItems
parse DictEmbeddingItems
parse ImageSize(width, height)
parse MultiModalDataItems.get_count(modality, strict)
registry MultiModalRegistry.get_processing_info(model_config)
llava,onevision,qwen2_5 ProcessingInfo.get_max_image_tokens
llava,onevision,qwen2_5 DummyInputsBuilder
next,qwen3_moe,qwen3_5 ProcessingInfo
onevision ProcessingInfo.get_max_video_tokens(seq_len, mm_counts)
llava,next,onevision,qwen2_5,qwen3 ForConditionalGeneration._parse_and_validate_image_input
onevision,qwen2_5,qwen3 ForConditionalGeneration._parse_and_validate_video_input
llava,next,onevision ForConditionalGeneration._image_pixels_to_features(vision_tower, pixel_values)
next ForConditionalGeneration._merge_image_patch_embeddings(image_size, patch_embeddings, strategy)
onevision ForConditionalGeneration.apply_pooling(image_features)
qwen2_5_tower,qwen3_tower Transformer.forward(x, grid_thw)
qwen3 MultiModalProcessor.get_video_repl(tokens_per_frame, timestamps, tokenizer, vision_start_token_id, \
vision_end_token_id, video_token_id, select_token_id)
qwen3 MultiModalProcessor._expands_only_video_token(hf_processor)
qwen2,qwen3 ProcessingInfo._get_vision_info(image_width, image_height, num_frames, image_processor, mm_kwargs, modality)
config MultiModalConfig(video_pruning_rate, mm_encoder_tp_mode)
config MultiModalConfig.is_multimodal_pruning_enabled
models config:MODELS_CONFIG_MAP
models interfaces:supports_multimodal_pruning
runner MultiModalPruner.recompute(mm_embeds, input_batch, req_states)
"""
)


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
    if _find("vllm.multimodal.processing:ProcessorInputs") is not None and not _options_are_hashed():
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
