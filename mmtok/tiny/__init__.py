"""A small LLaVA that can see, trained on rendered scenes of coloured shapes and shipped with the package.

Everything that needs a model offline (the demo, the tests, the docs) uses it. `make tiny` trains it again, from the
modules of this folder in this order:

    scenes        pictures with known objects
    questions     questions about them, in POPE's form
    vocabulary    the words, the tokenizer, the chat template
    architecture  the untrained model
    samples       training conversations and batches
    stages        what learns from what
    export        the checkpoint folder, in the llava-hf layout
    evaluation    held-out accuracy per selector and token budget (a command)
    report        what was run where, and what came out
    training      the seeded, resumable loop over all of this (a command)
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path() -> Path:
    """Return the folder of the embedded checkpoint: a stock `LlavaForConditionalGeneration` with its processor."""
    return Path(__file__).resolve().parent / "checkpoint"
