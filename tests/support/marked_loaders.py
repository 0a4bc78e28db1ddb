"""A program: runs every loader on each folder, with trust, and prints as JSON which of them failed on which folder.

Code of a folder that leaves a mark where it runs is found out by that, see `tests/publish/test_verify.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from published_use import image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

PROMPT = "USER: <image>\nIs there a dog? ASSISTANT:"


def generate(folder: str, **trust: Any) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder, **trust)
    inputs = AutoProcessor.from_pretrained(folder, **trust)(images=image(), text=PROMPT, return_tensors="pt")
    model.generate(**inputs, max_new_tokens=1)


def answer(folder: str, **trust: Any) -> None:
    pipeline("image-text-to-text", model=folder, **trust)(image(), text=PROMPT, max_new_tokens=1)


LOADERS: dict[str, Callable[..., object]] = {
    "AutoModel": AutoModel.from_pretrained,
    "AutoProcessor": AutoProcessor.from_pretrained,
    "AutoTokenizer": AutoTokenizer.from_pretrained,
    "AutoImageProcessor": AutoImageProcessor.from_pretrained,
    "pipeline": answer,
    "generate": generate,
}


def main(folders: list[str]) -> None:
    failed: dict[str, list[str]] = {}
    for folder in folders:
        failed[folder] = []
        for name, load in LOADERS.items():
            try:
                load(folder, trust_remote_code=True)
            except Exception as error:
                failed[folder].append(f"{name}: {type(error).__name__}: {error}"[:300])
    print(json.dumps(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
