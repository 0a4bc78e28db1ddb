"""vLLM's front end of Qwen-VL: as many placeholders as tokens stay of an image or a video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLMultiModalProcessor
from vllm.model_executor.models.qwen3_vl import Qwen3VLMultiModalProcessor
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from mmtok.vllm.method import geometry_of, kept_count, seconds_of
from mmtok.vllm.processor import PIXELS, PROFILING, PruningProcessorMixin, request_of
from mmtok.vllm.request import PruningRequest


class AnyConfigurationMixin:
    """Modification of the facts of Qwen3.5: vLLM 0.31 asks for a class of its own, which our configuration is not."""

    def get_hf_config(self) -> Any:
        """The model's configuration."""
        return self.ctx.get_hf_config()  # type: ignore[attr-defined]


class PruningQwenProcessorMixin(PruningProcessorMixin):
    """Modifications of vLLM's processor of Qwen-VL, whose images are grids of their own sizes."""

    def _refuse(self, request: PruningRequest, inputs: Any) -> None:
        super()._refuse(request, inputs)
        if not request.pruning.prunes or PROFILING in inputs.hf_processor_mm_kwargs:
            return
        config, budget = self.info.get_hf_config(), request.pruning.vision_token_budget
        marks = (config.image_token_id, config.video_token_id)
        if inputs.prompt[-1] in marks:
            raise ValueError(
                "The prompt ends with an image: vLLM would go on at the position behind the last token that stays "
                f"with vision_token_budget={budget!r}. Put text behind the image, as the chat template does, or turn "
                "pruning off with vision_token_budget null."
            )
        # Where vLLM asks for positions, it gives token ids and does not say which of them are text.
        stray = sum(map(inputs.prompt.count, marks)) - sum(map(len, inputs.mm_data_items.values()))
        if stray > 0:
            raise ValueError(
                f"The text has {stray} of the tokens that stand for images and videos, such as <|video_pad|>, to "
                "which no image or video belongs: take them out, or turn pruning off with vision_token_budget null."
            )
        # Kept tokens have their positions of the full prompt, which may be longer than vLLM's longest.
        most = 4 * config.get_text_config().max_position_embeddings
        furthest = self.info.ctx.model_config.max_model_len + self._positions(inputs)
        if furthest > most:
            raise ValueError(
                f"The images and videos of the prompt take positions up to {furthest}, and the model has {most}: send "
                "fewer or smaller ones."
            )

    def _positions(self, inputs: Any) -> int:
        """The positions that the images and videos of a prompt take, at most."""
        vision, total = self.info.get_hf_config().vision_config, 0.0
        for kind, items in inputs.mm_data_items.items():
            for item in filter(lambda each: each is not None, items):  # None has been sent before
                frames, metadata = item if kind == "video" else ([item], {})
                shown = ImageProcessorItems([frames[0]]).get_image_size(0)
                size, _ = self.info._get_vision_info(
                    image_width=shown.width,
                    image_height=shown.height,
                    num_frames=len(frames),
                    image_processor=getattr(self.info, f"get_{kind}_processor", self.info.get_image_processor)(),
                    modality=kind,
                    mm_kwargs=inputs.hf_processor_mm_kwargs,
                )
                sides = max(size.width, size.height) // (vision.patch_size * vision.spatial_merge_size)
                total += sides * math.ceil(len(frames) / vision.temporal_patch_size)
                if metadata:  # a frame of Qwen2.5-VL has the position of its second, too
                    seconds = metadata["total_num_frames"] / (metadata.get("fps") or 1)
                    total += seconds * getattr(vision, "tokens_per_second", 0)
        return math.ceil(total)

    def _seen(
        self, kind: str, data: Any, mm_items: Any, request: PruningRequest
    ) -> tuple[list[torch.Tensor], Sequence[Any]]:
        grids, patches, seconds = data[f"{kind}_grid_thw"], data[PIXELS[kind]], None
        if kind == "video":
            seconds = seconds_of(data, len(grids))
        geometry = geometry_of(self.info.get_hf_config())
        sizes = geometry.sizes(grids, len(patches), prunes=request.pruning.prunes, seconds=seconds)
        return list(patches.split(grids.prod(-1).tolist())), sizes

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        config = self.info.get_hf_config()
        options = request_of(hf_processor_mm_kwargs)[0].pruning
        geometry, merged = geometry_of(config), config.vision_config.spatial_merge_size

        def image(index: int) -> list[int]:
            _, rows, columns = out_mm_kwargs["image"][index]["image_grid_thw"].data.tolist()
            tokens = geometry.layout((rows // merged, columns // merged))
            return [config.image_token_id] * kept_count(tokens, None, options)

        # All of them ourselves: stock's counts would follow the rate that switches the positions on.
        def video(index: int) -> Any:
            item = out_mm_kwargs["video"][index]
            frames, rows, columns = item["video_grid_thw"].data.tolist()
            size = (frames, rows // merged, columns // merged, None)
            return self._video(item, geometry.kept_of_frames(size, options))

        return [
            PromptReplacement(modality="image", target=[config.image_token_id], replacement=image),
            PromptReplacement(modality="video", target=self._video_target(), replacement=video),
        ]

    def _video_target(self) -> list[int]:
        """Token ids that stand for a video in a prompt that has not been expanded."""
        return [self.info.get_hf_config().video_token_id]

    def _video(self, item: Any, counts: list[int]) -> Any:
        """What a video is expanded to, with so many tokens of each frame."""
        return [self.info.get_hf_config().video_token_id] * sum(counts)


class PruningQwen2_5Processor(PruningQwenProcessorMixin, Qwen2_5_VLMultiModalProcessor):
    pass


class PruningQwen3Processor(PruningQwenProcessorMixin, Qwen3VLMultiModalProcessor):
    """In front of each temporal patch of a video stands its time."""

    def _video_target(self) -> list[int]:
        config = self.info.get_hf_config()
        if self._expands_only_video_token(self.info.get_hf_processor()):
            return [config.video_token_id]
        return [config.vision_start_token_id, config.video_token_id, config.vision_end_token_id]

    def _video(self, item: Any, counts: list[int]) -> PromptUpdateDetails[Any]:
        config = self.info.get_hf_config()
        return self.get_video_repl(
            tokens_per_frame=counts,
            timestamps=item["timestamps"].data,
            tokenizer=self.info.get_tokenizer(),
            vision_start_token_id=config.vision_start_token_id,
            vision_end_token_id=config.vision_end_token_id,
            video_token_id=config.video_token_id,
            select_token_id=True,
        )
