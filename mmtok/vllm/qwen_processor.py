"""vLLM's front end of Qwen2.5-VL: as many placeholders as tokens stay of an image; videos are read in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLMultiModalProcessor
from vllm.multimodal.processing import PromptReplacement

from mmtok.vllm.method import QwenLayout, kept_count
from mmtok.vllm.processor import EMBEDDED, PROFILING, REQUEST, PruningProcessorMixin
from mmtok.vllm.request import PruningRequest


class PruningQwenProcessor(PruningProcessorMixin, Qwen2_5_VLMultiModalProcessor):
    """Modifications of vLLM's processor of Qwen2.5-VL, whose images are grids of their own sizes."""

    layout_class: type[QwenLayout] = QwenLayout

    def _refuse(self, request: PruningRequest, inputs: Any) -> None:
        super()._refuse(request, inputs)
        ends = list(inputs.prompt)[-1:] == [self.info.get_hf_config().image_token_id]
        if request.pruning.prunes and ends and PROFILING not in inputs.hf_processor_mm_kwargs:
            raise ValueError(
                "The prompt ends with an image: vLLM would go on at the position behind the last token that stays "
                f"with vision_token_budget={request.pruning.vision_token_budget!r}. Put text behind the image, as "
                "the chat template does, or turn pruning off with vision_token_budget null."
            )

    def _seen_images(
        self, data: Any, mm_items: Any, request: PruningRequest
    ) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
        grids, patches = data["image_grid_thw"], data["pixel_values"]
        layout = self.layout_class(self.info.get_hf_config())
        sizes = layout.grids(grids, len(patches), prunes=request.pruning.prunes)
        return list(patches.split(grids.prod(-1).tolist())), sizes

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        config = self.info.get_hf_config()
        options = PruningRequest.from_json(str(hf_processor_mm_kwargs[REQUEST])).pruning
        layout, merged = self.layout_class(config), config.vision_config.spatial_merge_size
        embedded = isinstance(mm_items.get("image"), EMBEDDED)

        # All of them ourselves: stock's counts would follow the rate that switches the positions on.
        def placeholders(index: int, modality: str, token: int) -> list[int]:
            frames, rows, columns = out_mm_kwargs[modality][index][f"{modality}_grid_thw"].data.tolist()
            size = (rows // merged, columns // merged)
            if modality == "video" or embedded:
                return [token] * (frames * size[0] * size[1])
            return [token] * kept_count(layout.tokens(size), None, options)

        return [
            PromptReplacement(
                modality=modality, target=[token], replacement=partial(placeholders, modality=modality, token=token)
            )
            for modality, token in (("image", config.image_token_id), ("video", config.video_token_id))
        ]
