"""Files of questions, as `mmtok generate` reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_questions(folder: Path, count: int) -> Path:
    """Questions of different lengths, each about a picture of its own."""
    words = ["Where", "is", "the", "dog", "and", "who", "walks", "it", "on", "the", "table"]
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        question = " ".join(words[: 2 + number % 8]) + "?"
        lines.append(json.dumps({"id": f"é{number}", "image": f"{number}.png", "question": question}))
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
