"""The code files of a published model repository, byte for byte those of this release, flat in its root."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# What Hugging Face Inference Endpoints import from a repository; nothing in the model needs it.
HANDLER_FILE = "handler.py"

# File in the repository -> module that it is a copy of.
PUBLISHED_FILES: dict[str, str] = {
    "modeling_mmtok_llava.py": "modeling_mmtok_llava",
    "configuration_mmtok.py": "configuration_mmtok",
    "cached_prompt.py": "mmtok.cached_prompt",
    "coverage.py": "mmtok.coverage",
    "devices.py": "mmtok.devices",
    "full_prompt.py": "mmtok.full_prompt",
    "generation.py": "mmtok.generation",
    "greedy.py": "mmtok.greedy",
    "image_tokens.py": "mmtok.image_tokens",
    "prompt.py": "mmtok.prompt",
    "pruned_batch.py": "mmtok.pruned_batch",
    "selection.py": "mmtok.selection",
    "selection_record.py": "mmtok.selection_record",
    "similarity.py": "mmtok.similarity",
    "units.py": "mmtok.units",
    "vision_features.py": "mmtok.vision_features",
    HANDLER_FILE: "mmtok.endpoint_handler",
}


def published_sources() -> dict[str, Path]:
    """Where the installed release keeps each published file, in a checkout and in an installed package alike.

    Raises:
        FileNotFoundError: a module is not installed as a source file.
    """
    sources = {}
    for name, module in PUBLISHED_FILES.items():
        spec = find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise FileNotFoundError(f"{module} is not installed as a source file: install mmtok again.")
        sources[name] = Path(spec.origin)
    return sources
