"""The entry of a `custom_generate` repository: `generate` of a stock model, on the pruned prompt.

    model.generate(**inputs, custom_generate="org/mmtok", trust_remote_code=True, vision_token_budget=64)

transformers loads this file as `custom_generate/generate.py`, beside the modeling files and the other modules of this
folder, and calls `generate` with the arguments of that call.
"""

from __future__ import annotations

from typing import Any

from .prune import is_mmtok, pruned
from .tokenizer_source import source_of

# What transformers passes on of the arguments with which it finds this file.
HUB_ARGUMENTS = frozenset(
    ["cache_dir", "force_download", "local_files_only", "proxies", "repo_type", "resume_download", "revision", "token"]
)


def generate(model: Any, **arguments: Any) -> Any:
    """`model.generate` on the pruned prompt; the model stays as it is, and nothing is kept on it or here.

    Args:
        model: a stock model of a family of MMTok, or an MMTok model.
        **arguments: those of the stock `generate`, and any option of `PruningOptions` for this call. Without a budget
            it is that of the family, such as 64 tokens of each crop.

    Returns:
        What the stock `generate` returns.

    Raises:
        ValueError: a model of another class, or that is compiled or replaced in parts; an option out of range; images
            and image tokens that do not belong together.
    """
    name, commit = model.config._name_or_path, getattr(model.config, "_commit_hash", None)
    model = pruned(model, {}, None if is_mmtok(model) else source_of(name, commit))
    return model.generate(**{name: value for name, value in arguments.items() if name not in HUB_ARGUMENTS})
