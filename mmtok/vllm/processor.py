"""vLLM's front end: as many placeholders as vision tokens stay, and the request beside the pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from vllm.model_executor.models.llava import LlavaMultiModalProcessor, LlavaProcessingInfo
from vllm.model_executor.models.llava_next import LlavaNextMultiModalProcessor, LlavaNextProcessingInfo
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems
from vllm.multimodal.processing import PromptReplacement

from mmtok.hub.options import OPTION_NAMES, near_option, require_meaningful
from mmtok.hub.tokenizer_source import TokenizerSource
from mmtok.vllm.method import geometry_of, kept_count, pruned_class
from mmtok.vllm.request import REQUEST, REQUESTS, PruningRequest

# Names of the pixels by modality.
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
# Marks the images of the profiling run, which are all the same.
PROFILING = "mmtok_profiling"
# `image_embeds` and `video_embeds`, of a family without grids and of one with them.
EMBEDDED = (EmbeddingItems, DictEmbeddingItems)


class PruningProcessorMixin:
    """Modifications of a LLaVA processor of vLLM: an image is expanded to the tokens that the request keeps of it.

    The request travels as one of the processor's keyword arguments. vLLM hashes those into the key of an image in its
    processor, encoder and prefix caches, so that what was selected for one question is never used for another.
    """

    info: Any

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Any:
        """vLLM's inputs for measuring memory, marked: they repeat one image, and each has to be encoded."""
        inputs = super().get_dummy_inputs(seq_len, mm_counts, mm_options)  # type: ignore[misc]
        return replace(inputs, hf_processor_mm_kwargs={**inputs.hf_processor_mm_kwargs, PROFILING: True})

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Processes a prompt.

        Raises:
            ValueError: options out of range, or that vLLM cannot honour; `image_embeds` or `video_embeds` in a request
                that prunes. A server answers 400 with the sentence.
        """
        given = dict(inputs.hf_processor_mm_kwargs)
        given.pop(REQUEST, None)  # a client's own
        for name in given:
            if name not in OPTION_NAMES and (near := near_option(name)):
                raise ValueError(f"mm_processor_kwargs has {name!r}, which is not an option: did you mean {near!r}?")
        # vLLM merges the server's --mm-processor-kwargs under the request's, but only where it calls the processor.
        engine = self.info.ctx.get_mm_config().mm_processor_kwargs or {}
        overrides = {name: engine[name] for name in OPTION_NAMES if name in engine}
        overrides.update({name: given.pop(name) for name in OPTION_NAMES if name in given})
        request = PruningRequest.of(self.info.get_hf_config(), list(inputs.prompt), overrides, self._tokenizer_source)
        self._refuse(request, inputs)
        tiled = geometry_of(self.info.get_hf_config()).tiled(inputs.mm_data_items.get_count("image", strict=False))
        given[REQUEST] = replace(request, tiled=tiled).to_json()
        return super().apply(replace(inputs, hf_processor_mm_kwargs=given), timing_ctx)  # type: ignore[misc]

    @cached_property
    def _tokenizer_source(self) -> TokenizerSource:
        return TokenizerSource(self.info.get_tokenizer())

    def _refuse(self, request: PruningRequest, inputs: Any) -> None:
        """Raises a ValueError where a request prunes what cannot be pruned."""
        if not request.pruning.prunes:
            return
        config = self.info.get_hf_config()
        require_meaningful(request.pruning, pruned_class(config).own_options, config.model_type)
        for kind in REQUESTS:
            if isinstance(inputs.mm_data_items.get(kind), EMBEDDED):
                raise ValueError(
                    f"{kind}_embeds cannot be pruned to vision_token_budget={request.pruning.vision_token_budget!r}: "
                    f"they lack the features in front of the projector, which the selection compares. Send the {kind}, "
                    "or turn pruning off with vision_token_budget null."
                )

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        data = super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
        request, rest = request_of(hf_kwargs)
        for kind, name in PIXELS.items():
            if name not in data:
                continue
            items, sizes = self._seen(kind, data, mm_items, request)
            for pixels in items:
                finite = torch.isfinite(pixels)
                if not bool(finite.all()):
                    raise ValueError(
                        f"{name} contains {float(pixels[~finite][0])}: check the image and image_std among the "
                        "request's mm_processor_kwargs."
                    )
            shared = not rest.get(PROFILING)
            keys = [_key_of(pixels, size) if shared else "" for pixels, size in zip(items, sizes, strict=True)]
            data[REQUESTS[kind]] = [replace(request, image_key=key).to_tensor() for key in keys]
        return data

    def _seen(
        self, kind: str, data: Any, mm_items: Any, request: PruningRequest
    ) -> tuple[list[torch.Tensor], Sequence[Any]]:
        """The pixels of each image, or video, as the vision tower gets them, also in `data`, and its size."""
        if kind == "video":
            return data["pixel_values_videos"], [(len(frames),) for frames in data["pixel_values_videos"]]
        geometry = geometry_of(self.info.get_hf_config())
        images, sizes = list(data["pixel_values"]), _sizes(mm_items)
        # Crops that only fill an image up to its neighbour's number would make it depend on the neighbour.
        data["pixel_values"] = [
            pixels[: geometry.crops(size, request.tiled)] if pixels.dim() == 4 else pixels
            for pixels, size in zip(images, sizes, strict=True)
        ]
        return data["pixel_values"], sizes

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        """What stock gives to the processor of transformers: without our arguments."""
        _, rest = request_of(hf_kwargs)
        rest.pop(PROFILING, None)
        return super()._get_hf_mm_inputs(mm_items, rest)  # type: ignore[misc]

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        _, rest = request_of(hf_processor_mm_kwargs)
        fields = super()._get_mm_fields_config(hf_inputs, rest)  # type: ignore[misc]
        requests = {name: MultiModalFieldConfig.batched(kind, keep_on_cpu=True) for kind, name in REQUESTS.items()}
        return {**fields, **requests}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        request, rest = request_of(hf_processor_mm_kwargs)
        config = self.info.get_hf_config()
        geometry = geometry_of(config)
        stock = super()._get_prompt_updates(mm_items, rest, out_mm_kwargs)  # type: ignore[misc]
        if isinstance(mm_items.get("image"), EMBEDDED):
            return stock

        options = request.pruning

        def placeholders(index: int) -> list[int]:
            size = _sizes(mm_items)[index]
            candidates = None
            if options.padding == "exclude":
                pixels = out_mm_kwargs["image"][index]["pixel_values"].data
                candidates = geometry.candidates(pixels if pixels.dim() == 4 else pixels[None], size, request.tiled)
            return [config.image_token_index] * kept_count(geometry.layout(size, request.tiled), candidates, options)

        images = PromptReplacement(modality="image", target=[config.image_token_index], replacement=placeholders)
        return [images, *(update for update in stock if update.modality != "image")]


class PruningInfoMixin:
    """Modifications of a LLaVA model's facts for vLLM's planning."""

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """All of an image's tokens: a request may turn pruning off and must still fit the encoder's budget."""
        return {"image": self.get_max_image_tokens()}  # type: ignore[attr-defined]


class PruningLlavaInfo(PruningInfoMixin, LlavaProcessingInfo):
    pass


class PruningLlavaNextInfo(PruningInfoMixin, LlavaNextProcessingInfo):
    pass


class PruningLlavaProcessor(PruningProcessorMixin, LlavaMultiModalProcessor):
    pass


class PruningLlavaNextProcessor(PruningProcessorMixin, LlavaNextMultiModalProcessor):
    pass


def request_of(hf_kwargs: Mapping[str, object]) -> tuple[PruningRequest, dict[str, Any]]:
    rest = dict(hf_kwargs)
    return PruningRequest.from_json(str(rest.pop(REQUEST))), rest


def _sizes(mm_items: Any) -> list[tuple[int, int]]:
    """(height, width) of each image in pixels."""
    images = mm_items["image"]
    sizes = [images.get_image_size(index) for index in range(len(images))]
    return [(size.height, size.width) for size in sizes]


def _key_of(pixels: torch.Tensor, size: Sequence[Any]) -> str:
    """Names an image or video for the cache of features: its pixels as the vision tower gets them, and its size."""
    content = hashlib.sha256(f"{size} {tuple(pixels.shape)} {pixels.dtype}".encode())
    content.update(pixels.contiguous().view(torch.uint8).numpy().data)
    return content.hexdigest()
