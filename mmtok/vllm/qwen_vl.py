"""What the Qwen-VL models have in common in vLLM: images of any size, and positions in time, height and width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.hub.grids import unmerged_tokens
from mmtok.vllm.embedding import PruningEmbeddingMixin, images_at_once
from mmtok.vllm.kept_positions import CHANNELS, counted_positions, placed_positions, with_places, without_places
from mmtok.vllm.method import seconds_of
from mmtok.vllm.request import REQUESTS, PruningRequest

# vLLM asks a model for positions after the vision tower has run where its own method is to prune a part of every video.
# The classes below don't use it; a rate next to none switches the question on.
_ASKS_FOR_POSITIONS = 2.0**-20


class NotingMerger:
    """Modification of a projector, which remembers what it was given. vLLM's `__call__` may pass hooks by."""

    given: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.given = x
        return super().__call__(x)  # type: ignore[misc]


class PruningQwenMixin(PruningEmbeddingMixin):
    """Modifications of a Qwen-VL model of vLLM."""

    tower_name = "visual"
    config: Any
    visual: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        _refuse_grid_modes(vllm_config)
        vllm_config.model_config.multimodal_config.video_pruning_rate = _ASKS_FOR_POSITIONS
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        merger = getattr(self.visual, "merger", None)  # there is none in a process that encodes no images
        if merger is not None:
            merger.__class__ = type("NotingMerger", (NotingMerger, type(merger)), {})
        vision = self.config.vision_config
        # What vLLM merges of a token, with the features of DeepStack where the family has them.
        self.token_width = vision.out_hidden_size * (1 + len(getattr(vision, "deepstack_visual_indexes", ())))
        self.has_full_graphs = vllm_config.compilation_config.cudagraph_mode.has_full_cudagraphs()
        self.unplaced: tuple[torch.Tensor, Sequence[torch.Tensor]] | None = None

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[torch.Tensor, int]:
        """(3, N) positions before the vision tower has run, and what a place behind the prompt is raised by."""
        count = super().get_mrope_input_positions  # type: ignore[misc]
        return counted_positions(count, input_tokens, mm_features, self._runs)

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
        if multimodal_embeddings and multimodal_embeddings[0].shape[1] > self.token_width:
            if self.has_full_graphs:
                raise RuntimeError(
                    "vLLM did not ask for the positions of kept tokens, and its CUDA graphs leave forward out: give "
                    "--enforce-eager."
                )
            self.unplaced = is_multimodal, multimodal_embeddings
            multimodal_embeddings = [each[:, :-CHANNELS] for each in multimodal_embeddings]
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)  # type: ignore[misc]

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
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)  # type: ignore[misc]

    def _runs(self, feature: Any) -> list[tuple[int, int, int]]:
        """The image, or the frames, of one of vLLM's images or videos, as `counted_positions` takes them."""
        grid = feature.data[f"{feature.modality}_grid_thw"].data.tolist()
        merged = self.config.vision_config.spatial_merge_size
        frames, rows, columns = grid[0], grid[1] // merged, grid[2] // merged
        if feature.modality == "image":
            return [(0, feature.mm_position.length, rows * columns)]
        sent, mask = feature.data.get(REQUESTS["video"]), feature.mm_position.is_embed
        if sent is None:  # video_embeds
            return []
        options = PruningRequest.from_tensor(sent.data).pruning
        kept = self.geometry.kept_of_frames((frames, rows, columns, None), options)
        starts = list(accumulate(kept[:-1], initial=0))
        if mask is not None:  # text stands between the frames
            starts = (mask & ~torch.nn.functional.pad(mask[:-1], (1, 0))).nonzero()[:, 0].tolist()
        return [(start, own, rows * columns) for start, own in zip(starts, kept, strict=True)]

    def _postprocess_image_embeds_evs(self, image_embeds_split: Any, image_input: Any) -> Any:
        """`image_embeds`, which are never pruned."""
        return tuple(without_places(each) for each in image_embeds_split)

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> Any:
        """`video_embeds`, which are never pruned."""
        return tuple(without_places(each) for each in video_embeds_split)

    def _most_at_once(self, vllm_config: Any) -> int:
        """Patches that vLLM encoded at once when it measured the memory."""
        tokens = MULTIMODAL_REGISTRY.get_processing_info(vllm_config.model_config).get_max_image_tokens()
        patches = tokens * self.config.vision_config.spatial_merge_size**2
        return images_at_once(vllm_config, tokens) * int(patches)

    def _images(self, **kwargs: object) -> tuple[list[torch.Tensor], Sequence[Any]]:
        images: Any = self._parse_and_validate_image_input(**kwargs)  # type: ignore[attr-defined]
        grids, pixels = images["image_grid_thw"], images["pixel_values"]
        return list(pixels.split(grids.prod(-1).tolist())), self.geometry.sizes(grids, len(pixels), prunes=False)

    def _videos(self, **kwargs: object) -> tuple[list[torch.Tensor], Sequence[Any]]:
        videos: Any = self._parse_and_validate_video_input(**kwargs)  # type: ignore[attr-defined]
        grids, pixels = videos["video_grid_thw"], videos["pixel_values_videos"]
        seconds = seconds_of(videos, len(grids))
        sizes = self.geometry.sizes(grids, len(pixels), prunes=False, seconds=seconds)
        return list(pixels.split(grids.prod(-1).tolist())), sizes

    def _encoded(self, pixels: Sequence[torch.Tensor], sizes: Sequence[Any]) -> Sequence[torch.Tensor]:
        """For each image or video (T, token_width + d_raw): its tokens, and behind each the mean of its patches."""
        merged = self.config.vision_config.spatial_merge_size
        whole = [(1, *size) if len(size) == 2 else size[:3] for size in sizes]
        grids = [[frames, rows * merged, columns * merged] for frames, rows, columns in whole]
        layouts = [self.geometry.layout(size) for size in sizes]
        tokens = self.visual(torch.cat(list(pixels)), grid_thw=grids)
        patches, self.visual.merger.given = self.visual.merger.given, None
        raw = unmerged_tokens(self.config.vision_config, patches, layouts)
        lengths = [len(layout.source) for layout in layouts]
        return [torch.cat(pair, dim=1) for pair in zip(tokens.split(lengths), raw, strict=True)]

    def _projected(self, features: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor]:
        return [each[:, : self.config.vision_config.out_hidden_size] for each in features]

    def _raw_packed(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return features[:, self.token_width :]

    def _carried(
        self, tokens: torch.Tensor, features: torch.Tensor, size: tuple[int, int], prunes: bool
    ) -> torch.Tensor:
        if not prunes:
            return without_places(features[:, : self.token_width])
        layout = self.geometry.layout(size)
        # A frame of Qwen2.5-VL is later than the beginning of its video, from which rows and columns count; each of
        # Qwen3-VL has a beginning of its own.
        step = getattr(self.config.vision_config, "tokens_per_second", 0) * (layout.seconds or 1.0)
        late = (layout.crop.double() * step).long()
        return with_places(features[:, : self.token_width], layout.row - late, layout.column - late)


def _refuse_grid_modes(vllm_config: Any) -> None:
    """Raises a ValueError for what vLLM's interface for positions is not right in."""
    multimodal, stages = vllm_config.model_config.multimodal_config, vllm_config.parallel_config.pipeline_parallel_size
    if multimodal.video_pruning_rate not in (None, 0, _ASKS_FOR_POSITIONS):
        raise ValueError(
            f"video_pruning_rate is {multimodal.video_pruning_rate}: MMTok prunes videos itself, by the budget. "
            "Leave it out."
        )
    if stages > 1:
        raise ValueError(
            f"pipeline_parallel_size is {stages}: vLLM puts the positions of kept tokens right in the first stage "
            "only, so that Qwen-VL would answer wrongly. Set it to 1, and use tensor_parallel_size."
        )
    if vllm_config.speculative_config is not None:
        raise ValueError(
            "speculative_config is given: vLLM hands the tokens of a draft to the positions of the token before, and "
            "MMTok has not been run with one for Qwen-VL. Leave it out."
        )
    if multimodal.mm_encoder_tp_mode == "data":
        raise ValueError(
            "mm_encoder_tp_mode is 'data': MMTok selects from what the whole vision tower gives. Set it to 'weights'."
        )
