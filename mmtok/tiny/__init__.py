"""A small LLaVA that can see and a small Qwen2.5-VL that can also read, and the scenes that they were trained on.

Everything that needs a model offline (the demo, the tests, the docs) uses them:

    checkpoint         stock LLaVA-1.5 in the layout of the llava-hf repos
    checkpoint_qwen    stock Qwen2.5-VL in the layout of the published repos
    catalogue     the 58 objects, with COCO's names
    scenes        images of them with the truth about every patch
    sprites       the drawings that scenes are made of; their licences are in drawings/NOTICE
    backgrounds   what they stand on
    questions     questions about a scene, in POPE's form
    prints        printed words and numbers
    reading       scenes of any size with objects and print, and questions about both

`make tiny` and `make tiny-qwen` train them again, with `benchmarks/objects` and `benchmarks/reading`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["EMBEDDED", "LLAVA", "QWEN", "checkpoint_path"]

LLAVA, QWEN = "tiny", "tiny-qwen"
# The names of the embedded models on a command line, and their folders here.
EMBEDDED = {LLAVA: "checkpoint", QWEN: "checkpoint_qwen"}


def checkpoint_path(model: str = LLAVA) -> Path:
    """Return the folder of an embedded checkpoint, a stock model with its processor.

    Args:
        model: "tiny", the `LlavaForConditionalGeneration`, or "tiny-qwen", the `Qwen2_5_VLForConditionalGeneration`.
    """
    return Path(__file__).resolve().parent / EMBEDDED[model]
