"""Qwen2.5-VL that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width. Weights, their names and everything behind the prompt are `Qwen2_5_VLForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Qwen2_5_VLForConditionalGeneration

try:
    # transformers 4.57 copies no module that this file does not name itself, so it names those that only others need.
    from .arguments import require_known  # noqa: F401
    from .configuration_mmtok import MMTokQwen2_5_VLConfig
    from .coverage import greedy_coverage  # noqa: F401
    from .deepstack import DeepStack  # noqa: F401
    from .devices import sent  # noqa: F401
    from .fused_greedy import fused_greedy  # noqa: F401
    from .generation import CachedPrompt  # noqa: F401
    from .greedy import plain_greedy  # noqa: F401
    from .host import output_class_of, share_checkpoint_layout
    from .images import EncodedVision  # noqa: F401
    from .llava_images import encode  # noqa: F401
    from .objective import coverage_matrix  # noqa: F401
    from .options import PruningOptions  # noqa: F401
    from .paper_selection import in_first_places  # noqa: F401
    from .pipeline import MMTokImageTextToTextPipeline  # noqa: F401
    from .prompt import GridPositions  # noqa: F401
    from .pruner import MMTokPruningMixin, pruning_forward
    from .pruning_steps import PruningSteps  # noqa: F401
    from .question import QuestionReader  # noqa: F401
    from .qwen_images import encode_qwen2_5_vl, encode_qwen2_5_vl_videos, qwen_positions
    from .selection import Crop  # noqa: F401
    from .shared_model import prune  # noqa: F401
    from .tokenizer_source import TokenizerSource  # noqa: F401
except ImportError:
    if __package__:  # a published repository: the import that failed says what is wrong
        raise
    # A checkout or an installed package, where the modules are not flat.
    from configuration_mmtok import MMTokQwen2_5_VLConfig
    from mmtok.hub.host import output_class_of, share_checkpoint_layout
    from mmtok.hub.pruner import MMTokPruningMixin, pruning_forward
    from mmtok.hub.qwen_images import encode_qwen2_5_vl, encode_qwen2_5_vl_videos, qwen_positions


class MMTokQwen2_5_VLForConditionalGeneration(MMTokPruningMixin, Qwen2_5_VLForConditionalGeneration, GenerationMixin):
    """`Qwen2_5_VLForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""

    config_class = MMTokQwen2_5_VLConfig
    config: MMTokQwen2_5_VLConfig
    image_arguments = ("pixel_values", "image_grid_thw")
    video_arguments = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    # Images have no row separators and are not padded.
    refused_options = ("keep_image_newline", "exclude_padding", "select_before_unpadding")
    position_axes = 3
    count_positions = staticmethod(qwen_positions)
    encode = staticmethod(encode_qwen2_5_vl)
    encode_videos = staticmethod(encode_qwen2_5_vl_videos)
    forward = pruning_forward(
        Qwen2_5_VLForConditionalGeneration, output_class_of(Qwen2_5_VLForConditionalGeneration), returns_images=False
    )


share_checkpoint_layout(
    MMTokQwen2_5_VLForConditionalGeneration,
    "mmtok_qwen2_5_vl",
    stock_class="Qwen2_5_VLForConditionalGeneration",
    stock_type="qwen2_5_vl",
)

__all__ = ["MMTokPruningMixin", "MMTokQwen2_5_VLForConditionalGeneration"]
