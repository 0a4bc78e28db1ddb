"""A small trained LLaVA, with the rendered scenes of coloured shapes that it was trained on.

Everything that needs a model offline (the demo, the tests, the docs) uses it:

    checkpoint    the model, stock LLaVA-1.5 in the layout of the llava-hf repos
    scenes        images with known objects
    questions     questions about them, in POPE's form

`make tiny` trains it again, with the code in `benchmarks/embedded_model`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path() -> Path:
    """Return the folder of the embedded checkpoint: a stock `LlavaForConditionalGeneration` with its processor."""
    return Path(__file__).resolve().parent / "checkpoint"
