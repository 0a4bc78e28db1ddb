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
from typing import Literal

__all__ = ["LLAVA", "QWEN", "Embedded", "checkpoint_path"]

Embedded = Literal["llava", "qwen"]
LLAVA: Embedded = "llava"
QWEN: Embedded = "qwen"


def checkpoint_path(model: Embedded = LLAVA) -> Path:
    """Return the folder of an embedded checkpoint, a stock model with its processor.

    Args:
        model: "llava" for the `LlavaForConditionalGeneration`, "qwen" for the `Qwen2_5_VLForConditionalGeneration`.
    """
    return Path(__file__).resolve().parent / {LLAVA: "checkpoint", QWEN: "checkpoint_qwen"}[model]
