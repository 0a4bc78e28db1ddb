"""vLLM's front end of LLaVA-OneVision: several images of a prompt have no tiles, and a video has a budget a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from vllm.model_executor.models.llava_onevision import LlavaOnevisionMultiModalProcessor, LlavaOnevisionProcessingInfo
from vllm.multimodal.parse import ImageSize
from vllm.multimodal.processing import PromptReplacement

from mmtok.vllm.method import geometry_of, kept_count
from mmtok.vllm.processor import EMBEDDED, PruningInfoMixin, PruningProcessorMixin, request_of

# transformers' processor takes the images of a list in a list for those of one prompt, and only the one image of a
# prompt has tiles.
_COMPANION = Image.new("RGB", (1, 1))


class PruningLlavaOnevisionInfo(PruningInfoMixin, LlavaOnevisionProcessingInfo):
    """Facts for vLLM's planning, of the checkpoint's grids: stock has a constant for the published ones."""

    def get_image_size_with_most_features(self) -> ImageSize:
        height, width = geometry_of(self.get_hf_config()).largest_image
        return ImageSize(width=width, height=height)

    def get_max_image_tokens(self) -> int:
        geometry = geometry_of(self.get_hf_config())
        return len(geometry.layout(geometry.largest_image).source)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        images = super().get_mm_max_tokens_per_item(seq_len, mm_counts)
        return {**images, "video": self.get_max_video_tokens(seq_len, mm_counts)}


class _WithoutCompanion(LlavaOnevisionMultiModalProcessor):
    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        data = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        for name in ("pixel_values", "image_sizes"):
            if name in data:
                data[name] = data[name][: mm_items.get_count("image")]
        return data


class PruningLlavaOnevisionProcessor(PruningProcessorMixin, _WithoutCompanion):
    """Shows several images of a prompt without tiles, as transformers does for a chat; stock gives each its tiles."""

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        request, _ = request_of(hf_kwargs)
        data, kwargs, passthrough = super()._get_hf_mm_inputs(mm_items, hf_kwargs)
        if "images" in data and not request.tiled:
            # The other images of the prompt may be cached, so that this one comes alone.
            token = self.info.get_hf_processor().image_token
            data = {**data, "images": [[*data["images"], _COMPANION]], "text": data["text"] + token}
        return data, kwargs, passthrough

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        if isinstance(mm_items.get("video"), EMBEDDED):
            return updates
        options, config = request_of(hf_processor_mm_kwargs)[0].pruning, self.info.get_hf_config()
        geometry, token = geometry_of(config), config.video_token_index

        def placeholders(index: int) -> list[int]:
            frames = len(out_mm_kwargs["video"][index]["pixel_values_videos"].data)
            return [token] * kept_count(geometry.layout((frames,)), None, options)

        videos = PromptReplacement(modality="video", target=[token], replacement=placeholders)
        return [*(update for update in updates if update.modality != "video"), videos]
