"""LLaVA-1.5 and LLaVA-NeXT that read only the vision tokens which cover the question and the image.

Modifications of transformers' models: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Weights, their names and everything behind
the prompt are `LlavaForConditionalGeneration`'s and `LlavaNextForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast
from transformers.models.llava_next.modeling_llava_next import LlavaNextCausalLMOutputWithPast

try:
    # transformers 4.57 copies no module that this file does not name itself, so it names those that only others need.
    from .arguments import require_known  # noqa: F401
    from .configuration_mmtok import MMTokLlavaConfig, MMTokLlavaNextConfig
    from .coverage import greedy_coverage  # noqa: F401
    from .deepstack import DeepStack  # noqa: F401
    from .devices import sent  # noqa: F401
    from .fused_greedy import fused_greedy  # noqa: F401
    from .generation import CachedPrompt  # noqa: F401
    from .greedy import plain_greedy  # noqa: F401
    from .host import share_checkpoint_layout
    from .images import EncodedVision  # noqa: F401
    from .llava_images import encode_llava, encode_llava_next
    from .objective import coverage_matrix  # noqa: F401
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
    from configuration_mmtok import MMTokLlavaConfig, MMTokLlavaNextConfig
    from mmtok.hub.host import share_checkpoint_layout
    from mmtok.hub.llava_images import encode_llava, encode_llava_next
    from mmtok.hub.pruner import MMTokPruningMixin, pruning_forward


class MMTokLlavaForConditionalGeneration(MMTokPruningMixin, LlavaForConditionalGeneration, GenerationMixin):
    """`LlavaForConditionalGeneration` that prunes vision tokens as its configuration says."""

    config_class = MMTokLlavaConfig
    config: MMTokLlavaConfig
    encode = staticmethod(encode_llava)
    forward = pruning_forward(LlavaForConditionalGeneration, LlavaCausalLMOutputWithPast)


class MMTokLlavaNextForConditionalGeneration(MMTokPruningMixin, LlavaNextForConditionalGeneration, GenerationMixin):
    """`LlavaNextForConditionalGeneration` that prunes vision tokens, crop by crop, as its configuration says."""

    config_class = MMTokLlavaNextConfig
    config: MMTokLlavaNextConfig
    encode = staticmethod(encode_llava_next)
    forward = pruning_forward(LlavaNextForConditionalGeneration, LlavaNextCausalLMOutputWithPast)


share_checkpoint_layout(
    MMTokLlavaForConditionalGeneration, "mmtok_llava", stock_class="LlavaForConditionalGeneration", stock_type="llava"
)
share_checkpoint_layout(
    MMTokLlavaNextForConditionalGeneration,
    "mmtok_llava_next",
    stock_class="LlavaNextForConditionalGeneration",
    stock_type="llava_next",
)

__all__ = [
    "MMTokLlavaForConditionalGeneration",
    "MMTokLlavaNextForConditionalGeneration",
    "MMTokPruningMixin",
]
