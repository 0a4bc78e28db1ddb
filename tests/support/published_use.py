"""Programs of somebody who found a published model: they run in clean processes that know neither mmtok nor the tests.

published_use.py answer MODEL[@REVISION]...  loads models in every way and prints their answers as JSON
published_use.py tune MODEL TARGET           trains one step, pushes the result to TARGET and prints its answers
published_use.py cards CARD                  runs the Python examples of a card, and asks the same one by one
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

for name in (
    "mmtok",
    "modeling_mmtok_llava",
    "configuration_mmtok",
    "hub_upload",
):
    sys.modules[name] = None  # type: ignore[assignment]  # importing them fails

import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline  # noqa: E402

QUESTION = "Is there a snowboard in the image?"


def image() -> Image.Image:
    rows, columns = torch.arange(30)[:, None], torch.arange(40)[None, :]
    channels = [(rows * 7 + columns * 3) % 256, (rows * columns) % 256, (columns * 5 + rows) % 256]
    return Image.fromarray(torch.stack(channels, -1).to(torch.uint8).numpy())


def answers(model: Any, processor: Any) -> dict[str, Any]:
    """Greedy ids with the configured and with another budget, and the kept tokens."""
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=image(), text=prompt, return_tensors="pt")
    with torch.no_grad():
        ids = [
            model.generate(**inputs, max_new_tokens=6, do_sample=False, **pruning_options)[0].tolist()
            for pruning_options in ({}, {"vision_token_budget": 2})
        ]
    return {"ids": ids, "kept": model.select_vision_tokens(**inputs).kept_mask.int().tolist()}


def answer(*models: str) -> None:
    print(json.dumps([answer_of(*model.split("@")) for model in models]))


def answer_of(model_id: str, revision: str = "main") -> dict[str, Any]:
    found: dict[str, Any] = {"untrusted": untrusted(model_id, revision)}
    source: dict[str, Any] = {"trust_remote_code": True, "revision": revision}
    processor = AutoProcessor.from_pretrained(model_id, **source)
    for automatic in (AutoModel, AutoModelForImageTextToText):
        model = automatic.from_pretrained(model_id, **source)
        found[automatic.__name__] = {"class": type(model).__name__, **answers(model, processor)}
    ask = pipeline("image-text-to-text", model=model_id, **source)
    content = [{"type": "image", "image": image()}, {"type": "text", "text": QUESTION}]
    said = ask(text=[{"role": "user", "content": content}], max_new_tokens=6, return_full_text=False)
    found["pipeline"] = said[0]["generated_text"]
    return found


def untrusted(model_id: str, revision: str) -> str:
    """What somebody is told who loads the model without trusting its code."""
    try:
        AutoModelForImageTextToText.from_pretrained(model_id, revision=revision, trust_remote_code=False)
    except ValueError as error:
        return "trust_remote_code=True" if "trust_remote_code=True" in str(error) else str(error)
    return "it loads"


def tune(model_id: str, target: str) -> None:
    processor = AutoProcessor.from_pretrained(model_id, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(model_id, trust_remote_code=True)
    text = f"USER: <image>\n{QUESTION} ASSISTANT: no"
    inputs = processor(images=image(), text=text, return_tensors="pt")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    optimizer.step()
    model.eval()
    model.push_to_hub(target)
    processor.push_to_hub(target)
    print(json.dumps({"loss": loss.item(), **answers(model, processor)}))


def cards(card: str) -> None:
    for file in ("photo.jpg", "table.jpg", "garden.jpg"):
        image().save(file)
    blocks = re.findall(r"```python\n(.*?)```", Path(card).read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = {"printed": [], "lengths": [], "batch": [], "single": []}
    for block in blocks:
        names: dict[str, Any] = {}
        with redirect_stdout(StringIO()) as said:
            exec(compile(block, card, "exec"), names)
        found["printed"].append(said.getvalue().strip())
        if "questions" in names:
            found |= batch_and_single(names)
    print(json.dumps(found))


def batch_and_single(names: dict[str, Any]) -> dict[str, Any]:
    """The answers of the batch of a card's example and of each of its prompts alone, with two budgets."""
    model, processor, batch = names["model"], names["processor"], names["inputs"]
    alone = [
        processor(images=one, text=prompt, return_tensors="pt").to(model.device, model.dtype)
        for one, prompt in zip(names["images"], names["prompts"], strict=True)
    ]
    budgets: tuple[dict[str, Any], ...] = ({}, {"vision_token_budget": 2})

    def said(inputs: Any, budget: dict[str, Any]) -> list[str]:
        output = model.generate(**inputs, max_new_tokens=32, do_sample=False, **budget)
        return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return {
        "lengths": batch["attention_mask"].sum(-1).tolist(),
        "batch": [said(batch, budget) for budget in budgets],
        "single": [[text for one in alone for text in said(one, budget)] for budget in budgets],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    programs: dict[str, Any] = {"answer": answer, "tune": tune, "cards": cards}
    programs[sys.argv[1]](*sys.argv[2:])
