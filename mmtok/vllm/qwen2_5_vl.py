"""Qwen2.5-VL in vLLM, with the vision tokens that each request keeps, at their positions in time, height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VisionPatchMerger,
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.hub.qwen_images import unmerged_tokens
from mmtok.vllm.embedding import PruningEmbeddingMixin, images_at_once
from mmtok.vllm.kept_positions import CHANNELS, counted_positions, placed_positions, with_places, without_places
from mmtok.vllm.method import QwenLayout
from mmtok.vllm.qwen_processor import PruningQwenProcessor

# vLLM asks a model for positions after the vision tower has run where a part of every video is to be pruned. The class
# below prunes no video; a rate next to none switches the question on.
_ASKS_FOR_POSITIONS = 2.0**-20


class _NotingMerger(Qwen2_5_VisionPatchMerger):
    """The projector, which remembers what it was given. vLLM's `__call__` passes hooks by."""

    given: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.given = x
        return super().__call__(x)


@MULTIMODAL_REGISTRY.register_processor(
    PruningQwenProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class MMTokQwen2_5_VLForConditionalGeneration(PruningEmbeddingMixin, Qwen2_5_VLForConditionalGeneration):
    """vLLM's Qwen2.5-VL with pruned images; a video passes to the stock class."""

    layout_class = QwenLayout
    layout: QwenLayout

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        _refuse_modes(vllm_config)
        vllm_config.model_config.multimodal_config.video_pruning_rate = _ASKS_FOR_POSITIONS
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        merger = getattr(self.visual, "merger", None)  # there is none in a process that encodes no images
        if isinstance(merger, Qwen2_5_VisionPatchMerger):
            merger.__class__ = _NotingMerger
        self.has_full_graphs = vllm_config.compilation_config.cudagraph_mode.has_full_cudagraphs()
        self.unplaced: tuple[torch.Tensor, Sequence[torch.Tensor]] | None = None

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[torch.Tensor, int]:
        """(3, N) positions before the vision tower has run, and what a place behind the prompt is raised by."""
        return counted_positions(super().get_mrope_input_positions, input_tokens, mm_features, self._full_length)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | torch.Tensor,
        multimodal_embeddings: Sequence[torch.Tensor],
        mrope_positions: Any,
        num_computed_tokens: int,
    ) -> tuple[Sequence[torch.Tensor], torch.Tensor, int]:
        """The embeddings without the channels behind them, and the positions that these put right."""
        positions: torch.Tensor = mrope_positions
        if multimodal_embeddings:  # in a step of decoding there are none
            ids = torch.as_tensor(input_ids[num_computed_tokens:])
            is_vision = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
            places = is_vision.nonzero()[:, 0] + num_computed_tokens
            positions = placed_positions(positions, places, multimodal_embeddings)
        # The last token is text, or the last of an image or video that has all of its tokens: none is further.
        delta = int(positions[:, -1].max()) + 1 - positions.shape[1]
        return [each[:, :-CHANNELS] for each in multimodal_embeddings], positions, delta

    def embed_input_ids(
        self, input_ids: torch.Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Any = None
    ) -> torch.Tensor:
        """(n, hidden) embeddings of a step; what vLLM did not ask about is left for `forward`."""
        self.unplaced = None
        if multimodal_embeddings and multimodal_embeddings[0].shape[1] > self.config.vision_config.out_hidden_size:
            if self.has_full_graphs:
                raise RuntimeError(
                    "vLLM did not ask for the positions of kept tokens, and its CUDA graphs leave forward out: give "
                    "--enforce-eager."
                )
            self.unplaced = is_multimodal, multimodal_embeddings
            multimodal_embeddings = [each[:, :-CHANNELS] for each in multimodal_embeddings]
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        """vLLM's own, with kept tokens at their positions where its runner did not ask for them, as that of the CPU."""
        if self.unplaced is not None:
            is_vision, embeddings = self.unplaced
            self.unplaced = None
            positions = placed_positions(positions, is_vision.nonzero()[:, 0], embeddings)
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)

    def _full_length(self, feature: Any) -> int:
        """Tokens of one of vLLM's images or videos without pruning."""
        if feature.modality != "image":
            return feature.mm_position.length
        return int(feature.data["image_grid_thw"].data.prod()) // self.config.vision_config.spatial_merge_size**2

    def _postprocess_image_embeds_evs(self, image_embeds_split: Any, image_input: Any) -> Any:
        """`image_embeds`, which are never pruned."""
        return tuple(without_places(each) for each in image_embeds_split)

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> Any:
        """Videos, which are never pruned."""
        return tuple(without_places(each) for each in video_embeds_split)

    def _most_at_once(self, vllm_config: Any) -> int:
        """Patches that vLLM encoded at once when it measured the memory."""
        tokens = MULTIMODAL_REGISTRY.get_processing_info(vllm_config.model_config).get_max_image_tokens()
        patches = tokens * self.config.vision_config.spatial_merge_size**2
        return images_at_once(vllm_config, tokens) * patches

    def _images(self, image_input: Any) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
        grids, pixels = image_input["image_grid_thw"], image_input["pixel_values"]
        return list(pixels.split(grids.prod(-1).tolist())), self.layout.grids(grids, len(pixels), prunes=False)

    def _encoded(self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor]:
        """For each image (T, hidden + d_raw), tokens behind the projector and the mean of the patches of each."""
        merged = self.config.vision_config.spatial_merge_size
        grids = [[1, rows * merged, columns * merged] for rows, columns in sizes]
        layouts = [self.layout.tokens(size) for size in sizes]
        projected = self.visual(torch.cat(list(pixels)), grid_thw=grids)
        patches, self.visual.merger.given = self.visual.merger.given, None
        raw = unmerged_tokens(self.config.vision_config, patches, layouts)
        lengths = [len(layout.source) for layout in layouts]
        return [torch.cat(pair, dim=1) for pair in zip(projected.split(lengths), raw, strict=True)]

    def _projected(self, features: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor]:
        return [each[:, : self.config.vision_config.out_hidden_size] for each in features]

    def _raw_packed(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return features[:, self.config.vision_config.out_hidden_size :]

    def _carried(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        layout = self.layout.tokens(size)
        return with_places(tokens, layout.row, layout.column)


def _refuse_modes(vllm_config: Any) -> None:
    """Raises a ValueError for what vLLM's interface for positions is not right in."""
    multimodal, stages = vllm_config.model_config.multimodal_config, vllm_config.parallel_config.pipeline_parallel_size
    if multimodal.video_pruning_rate not in (None, 0, _ASKS_FOR_POSITIONS):
        raise ValueError(
            f"video_pruning_rate is {multimodal.video_pruning_rate}: MMTok reads the videos of Qwen2.5-VL in full. "
            "Leave it out."
        )
    if stages > 1:
        raise ValueError(
            f"pipeline_parallel_size is {stages}: vLLM puts the positions of kept tokens right in the first stage "
            "only, so that Qwen2.5-VL would answer wrongly. Set it to 1, and use tensor_parallel_size."
        )
    if vllm_config.speculative_config is not None:
        raise ValueError(
            "speculative_config is given: vLLM hands the tokens of a draft to the positions of the token before, and "
            "MMTok has not been run with one for Qwen2.5-VL. Leave it out."
        )
    if multimodal.mm_encoder_tp_mode == "data":
        raise ValueError(
            "mm_encoder_tp_mode is 'data': MMTok selects from what the whole vision tower gives. Set it to 'weights'."
        )
