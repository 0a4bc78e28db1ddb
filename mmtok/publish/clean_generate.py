"""A program: loads a `custom_generate` folder as a user without mmtok would, and prunes a small stock model with it.

It runs in a process of its own (see `clean_process`) and imports torch and transformers alone. Called with a JSON file
that holds the fields of `Request`, it writes a report to the path named there; `problems` is empty when all is well.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE, VOCABULARY, TOKENS = 63, 64, 16


@dataclass
class Request:
    """What to check.

    Attributes:
        folder: holds `custom_generate/generate.py`.
        report: where to write the report.
        blocked: modules that must not be imported, since only the folder's own code may run.
    """

    folder: str
    report: str
    blocked: list[str]


def main(arguments: list[str]) -> int:
    request = Request(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    # Importing a name that stands for None fails, wherever mmtok may be installed.
    sys.modules.update(dict.fromkeys(request.blocked))  # type: ignore[arg-type]
    report: dict[str, Any] = {"problems": []}
    try:
        check(request.folder, report)
    except Exception as error:
        traceback.print_exc()
        report["problems"].append(f"{type(error).__name__}: {error}")
    Path(request.report).write_text(json.dumps(report), encoding="utf-8")
    return 0


def check(folder: str, report: dict[str, Any]) -> None:
    """Every class loads; a small LLaVA answers with few tokens, and as stock with pruning off and the full budget."""
    import torch

    model, inputs = _small_model()
    ours = {"custom_generate": folder, "trust_remote_code": True, "do_sample": False, "max_new_tokens": 4}
    stock = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    for budget, name in ((None, "pruning off"), (TOKENS, "the full budget")):
        if not torch.equal(model.generate(**inputs, **ours, vision_token_budget=budget), stock):
            report["problems"].append(f"with {name} generate returns other tokens than stock")
    if model.generate(**inputs, **ours, vision_token_budget=2).shape != stock.shape:
        report["problems"].append("with a budget generate returns another shape than stock")
    loaded = sys.modules[model.load_custom_generate(folder, trust_remote_code=True).__module__]
    report["classes"] = [name for name, load in loaded.CLASSES.items() if load().__name__ == f"MMTok{name}"]


def _small_model() -> tuple[Any, dict[str, Any]]:
    """A random stock LLaVA, and a prompt with an image."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(**sizes, vocab_size=VOCABULARY, pad_token_id=0)
    vision = CLIPVisionConfig(**sizes, image_size=24, patch_size=6)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    prompt = [1, *[IMAGE] * TOKENS, 5, 9, 7]
    inputs = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
    return model, {**inputs, "pixel_values": torch.randn(1, 3, 24, 24)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
