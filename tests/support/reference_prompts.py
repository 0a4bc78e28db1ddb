"""Questions in the forms of the paper's benchmarks, and the real tokenizer that they are asked with."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_checkpoints import VICUNA_TEMPLATE, llama_tokenizer
from transformers import PreTrainedTokenizerFast

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
POPE_QUESTIONS = [
    "Is there a snowboard in the image?",
    "Is there a dining table in the image?\nAnswer the question using a single word or phrase.",
    "Is there a person in the image?",
]
OTHER_QUESTIONS = [
    "Describe this image in detail.",
    "Read the text in the image.",
    "What does the sign say?\nAnswer the question using a single word or phrase.",
    "Which animal is this?\nA. cat\nB. dog\nC. horse\nAnswer with the option's letter from the given choices directly.",
    'What is written next to "Exit"?\nReference OCR token: STOP, 42, Main, St.',
    "(a) Red or (b) blue?",
    "Transcribe <title>.",
    "How many dogs are there? 3 or 12?",
    "Où est l'été?",
    "What is it?",
]


def llama_or_skip() -> PreTrainedTokenizerFast:
    """Llama's tokenizer with LLaVA-1.5's chat template; skips the test where its file is absent."""
    model = DATA / "llama_tokenizer.model"
    if not model.is_file():
        pytest.skip(f"needs Llama's tokenizer at {model}")
    return PreTrainedTokenizerFast(
        tokenizer_object=llama_tokenizer(model),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=VICUNA_TEMPLATE,
    )
