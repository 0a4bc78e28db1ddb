"""LLaVA-OneVision that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Weights, their names and everything behind
the prompt are `LlavaOnevisionForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionCausalLMOutputWithPast

try:
    # transformers 4.57 copies no module that this file does not name itself, so it names those that only others need.
    from .arguments import require_known  # noqa: F401
    from .configuration_mmtok import MMTokLlavaOnevisionConfig
    from .coverage import greedy_coverage  # noqa: F401
    from .deepstack import DeepStack  # noqa: F401
    from .devices import sent  # noqa: F401
    from .fused_greedy import fused_greedy  # noqa: F401
    from .generation import CachedPrompt  # noqa: F401
    from .greedy import plain_greedy  # noqa: F401
    from .host import share_checkpoint_layout
    from .images import EncodedVision  # noqa: F401
    from .llava_images import encode  # noqa: F401
    from .objective import coverage_matrix  # noqa: F401
    from .onevision_images import encode_llava_onevision, encode_llava_onevision_videos
    from .options import PruningOptions  # noqa: F401
    from .paper_selection import in_first_places  # noqa: F401
    from .pipeline import MMTokImageTextToTextPipeline  # noqa: F401
    from .prompt import GridPositions  # noqa: F401
    from .pruner import MMTokPruningMixin, pruning_forward
    from .pruning_steps import PruningSteps  # noqa: F401
    from .question import QuestionReader  # noqa: F401
    from .selection import Crop  # noqa: F401
    from .shared_model import prune  # noqa: F401
    from .tokenizer_source import TokenizerSource  # noqa: F401
except ImportError:
    if __package__:  # a published repository: the import that failed says what is wrong
        raise
    # A checkout or an installed package, where the modules are not flat.
    from configuration_mmtok import MMTokLlavaOnevisionConfig
    from mmtok.hub.host import share_checkpoint_layout
    from mmtok.hub.onevision_images import encode_llava_onevision, encode_llava_onevision_videos
    from mmtok.hub.pruner import MMTokPruningMixin, pruning_forward


class MMTokLlavaOnevisionForConditionalGeneration(
    MMTokPruningMixin, LlavaOnevisionForConditionalGeneration, GenerationMixin
):
    """`LlavaOnevisionForConditionalGeneration` that prunes vision tokens: of images, their mosaics and frames."""

    config_class = MMTokLlavaOnevisionConfig
    config: MMTokLlavaOnevisionConfig
    image_arguments = (*MMTokPruningMixin.image_arguments, "batch_num_images")
    video_arguments = (
        "pixel_values_videos",
        "image_sizes_videos",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    )
    # The mosaic of tiles is put together and shrunk before anything can be selected.
    refused_options = ("select_before_unpadding",)
    encode = staticmethod(encode_llava_onevision)
    encode_videos = staticmethod(encode_llava_onevision_videos)
    forward = pruning_forward(LlavaOnevisionForConditionalGeneration, LlavaOnevisionCausalLMOutputWithPast)


share_checkpoint_layout(
    MMTokLlavaOnevisionForConditionalGeneration,
    "mmtok_llava_onevision",
    stock_class="LlavaOnevisionForConditionalGeneration",
    stock_type="llava_onevision",
)

__all__ = ["MMTokLlavaOnevisionForConditionalGeneration", "MMTokPruningMixin"]
