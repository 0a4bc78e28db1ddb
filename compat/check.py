"""A program for an environment without mmtok: uses staged folders as a user would, and writes down what it saw.

`python -I -B check.py FOLDER` reads FOLDER/request.json, which maps a name to a staged folder, and writes report.json.
Deprecation warnings that name a file of a staged folder are findings.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.utils import is_torchvision_available

QUESTION = "Is there a snowboard in the picture? Answer with one word."


def main(folder: Path) -> None:
    sys.stdin = open(os.devnull)  # noqa: SIM115, nobody answers whether to run the custom code
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    seen: dict[str, Any] = {**versions, "python": platform.python_version(), "folders": {}}
    for name, staged in json.loads((folder / "request.json").read_text(encoding="utf-8")).items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = use(staged)
            except Exception as error:
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {error}"[:400]}
        deprecations = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
        ours = [each for each in caught if "transformers_modules" in each.filename]
        found["our_deprecations"] = sorted(
            {str(each.message) for each in ours if issubclass(each.category, deprecations)}
        )
        seen["folders"][name] = found
    (folder / "report.json").write_text(json.dumps(seen, indent=2), encoding="utf-8")


def use(folder: str) -> dict[str, Any]:
    """Loads, selects, generates, asks a pipeline, saves, loads again."""
    # With torchvision 5.x prepares images with it, 4.57 on request.
    own = {"use_fast": True} if transformers.__version__.startswith("4.") and is_torchvision_available() else {}
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True, **own)
    model, loaded = load(folder)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=image(), text=text, return_tensors="pt")
    settings = {"max_new_tokens": 6, "do_sample": False, "vision_token_budget": 4}
    tokens, stock = (model.generate(**inputs, **(settings | {"vision_token_budget": each})) for each in (4, None))
    selection = model.select_vision_tokens(**inputs, vision_token_budget=4)
    found: dict[str, Any] = {
        "class": type(model).__name__,
        "loading": loaded,
        "kept": [image.indices.tolist() for image in selection.images],
        "tokens": tokens[:, inputs["input_ids"].shape[1] :].tolist(),
        "tokens of stock": stock[:, inputs["input_ids"].shape[1] :].tolist(),
        "beams": model.generate(**inputs, **settings, num_beams=2)[:, inputs["input_ids"].shape[1] :].tolist(),
    }
    with tempfile.TemporaryDirectory() as elsewhere:
        # Folders of one name share their code in a process.
        again = Path(elsewhere) / f"again {Path(folder).name}"
        model.save_pretrained(again)
        reloaded, found["loading_again"] = load(str(again))
        before, after = model.state_dict(), reloaded.state_dict()
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        found["same_again"] = same and torch.equal(reloaded.generate(**inputs, **settings), tokens)
    asked = [{"role": "user", "content": [{"type": "image", "image": image()}, {"type": "text", "text": QUESTION}]}]
    answers = pipeline("image-text-to-text", model=model, processor=processor)(text=asked, max_new_tokens=4)
    found["pipeline"] = isinstance(answers[0]["generated_text"][-1]["content"], str)
    full = {"vision_token_budget": 1.0}
    with torch.no_grad():
        pruned, stock = (
            model(**inputs, **pruning_options).logits for pruning_options in (full, {"vision_token_budget": None})
        )
    found["full_budget_is_stock"] = torch.equal(pruned, stock)
    try:
        AutoModelForImageTextToText.from_pretrained(folder)
    except Exception:
        found["refused_without_trust"] = True
    else:
        found["refused_without_trust"] = False
    return found


def load(folder: str) -> tuple[Any, dict[str, int]]:
    model, info = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    return model.eval(), {name: len(keys) for name, keys in info.items() if keys}


def image() -> Any:
    """A wide image with structure everywhere, so that no two patches are alike."""
    rows, columns = torch.arange(160)[:, None], torch.arange(320)[None, :]
    channels = [(rows * 3 + columns) % 256, (rows * columns // 7) % 256, (columns * 5 - rows * rows // 9) % 256]
    flat = torch.stack([channel.expand(160, 320) for channel in channels], -1).to(torch.uint8)
    return Image.frombytes("RGB", (320, 160), bytes(flat.flatten().tolist()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
