"""The entry of a `custom_generate` repository: `generate` of a stock model, on the pruned prompt.

    model.generate(**inputs, custom_generate="org/mmtok", trust_remote_code=True, vision_token_budget=64)

transformers loads this file as `custom_generate/generate.py`, beside the modeling files and the other modules of this
folder, and calls `generate` with the arguments of that call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# transformers 4.57 copies no module that this file does not name itself, so it names those that only others need.
from .arguments import require_known  # noqa: F401
from .configuration_mmtok import PruningOptions  # noqa: F401
from .coverage import greedy_coverage  # noqa: F401
from .deepstack import DeepStack  # noqa: F401
from .devices import sent  # noqa: F401
from .fused_greedy import fused_greedy  # noqa: F401
from .generation import CachedPrompt  # noqa: F401
from .greedy import plain_greedy  # noqa: F401
from .host import share_checkpoint_layout  # noqa: F401
from .images import EncodedVision  # noqa: F401
from .llava_images import encode  # noqa: F401
from .objective import coverage_matrix  # noqa: F401
from .options import OPTION_NAMES  # noqa: F401
from .paper_selection import in_first_places  # noqa: F401
from .pipeline import MMTokImageTextToTextPipeline  # noqa: F401
from .prompt import GridPositions  # noqa: F401
from .pruner import MMTokPruningMixin  # noqa: F401
from .pruning_steps import PruningSteps  # noqa: F401
from .question import QuestionReader  # noqa: F401
from .selection import Crop  # noqa: F401
from .shared_model import is_mmtok, prune
from .tokenizer_source import source_of


def _llava() -> type:
    from .modeling_mmtok_llava import MMTokLlavaForConditionalGeneration

    return MMTokLlavaForConditionalGeneration


def _llava_next() -> type:
    from .modeling_mmtok_llava import MMTokLlavaNextForConditionalGeneration

    return MMTokLlavaNextForConditionalGeneration


def _llava_onevision() -> type:
    from .modeling_mmtok_llava_onevision import MMTokLlavaOnevisionForConditionalGeneration
    from .onevision_images import encode_llava_onevision  # noqa: F401

    return MMTokLlavaOnevisionForConditionalGeneration


def _qwen2_5_vl() -> type:
    from .modeling_mmtok_qwen2_5_vl import MMTokQwen2_5_VLForConditionalGeneration
    from .qwen_images import encode_qwen2_5_vl  # noqa: F401

    return MMTokQwen2_5_VLForConditionalGeneration


def _qwen3_vl() -> type:
    from .modeling_mmtok_qwen3_vl import MMTokQwen3VLForConditionalGeneration
    from .qwen_images import encode_qwen3_vl, encode_qwen3_vl_videos  # noqa: F401

    return MMTokQwen3VLForConditionalGeneration


# Stock class -> what imports the class that prunes it, which is done for the class of the model alone.
CLASSES: dict[str, Callable[[], type]] = {
    "LlavaForConditionalGeneration": _llava,
    "LlavaNextForConditionalGeneration": _llava_next,
    "LlavaOnevisionForConditionalGeneration": _llava_onevision,
    "Qwen2_5_VLForConditionalGeneration": _qwen2_5_vl,
    "Qwen3VLForConditionalGeneration": _qwen3_vl,
}
# What transformers passes on of the arguments with which it finds this file.
HUB_ARGUMENTS = frozenset(
    (
        "cache_dir",
        "force_download",
        "local_files_only",
        "proxies",
        "repo_type",
        "resume_download",
        "revision",
        "token",
    )
)


def generate(model: Any, **arguments: Any) -> Any:
    """`model.generate` on the pruned prompt; the model stays as it is, and nothing is kept on it or here.

    Args:
        model: a stock model of a family of MMTok, or an MMTok model.
        **arguments: those of the stock `generate`, and any option of `PruningOptions` for this call. Without a budget
            it is that of the family: 64 tokens of each crop, or for LLaVA-OneVision and Qwen2.5-VL a share of 0.2.

    Returns:
        What the stock `generate` returns.

    Raises:
        ValueError: a model of another class, or that is compiled or replaced in parts; an option out of range; images
            and image tokens that do not belong together.
    """
    name, commit = model.config._name_or_path, getattr(model.config, "_commit_hash", None)
    pruned = prune(model, CLASSES, {}, None if is_mmtok(model) else source_of(name, commit))
    return pruned.generate(**{name: value for name, value in arguments.items() if name not in HUB_ARGUMENTS})
