"""A small LLaVA that can see, and the scenes of everyday objects that it was trained on.

Everything that needs a model offline (the demo, the tests, the docs) uses it:

    checkpoint    the model, stock LLaVA-1.5 in the layout of the llava-hf repos
    catalogue     the 58 objects, with COCO's names
    scenes        images of them with the truth about every patch
    sprites       the drawings that scenes are made of; their licences are in drawings/NOTICE
    backgrounds   what they stand on
    questions     questions about a scene, in POPE's form

`make tiny` trains it again, with the code in `benchmarks/objects`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path() -> Path:
    """Return the folder of the embedded checkpoint: a stock `LlavaForConditionalGeneration` with its processor."""
    return Path(__file__).resolve().parent / "checkpoint"
