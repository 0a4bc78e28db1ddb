"""A program: loads a staged folder as a user without mmtok would, and compares it with its base.

It runs in a process of its own (see `clean_process`), imports torch, transformers and safetensors alone, and keeps one
model in memory at a time. Called with a JSON file that holds the fields of `Request`, it writes a report to the path
named there; `problems` is empty when all is well.
"""

from __future__ import annotations

import gc
import json
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUESTION = "Is there a snowboard in the image? Answer with one word."
TOKENIZER_PROMPTS: tuple[str, ...] = (
    "",
    " ",
    "USER: <image>\nIs there a snowboard in the image? ASSISTANT:",
    "[INST] <image>\nWhat is shown in this image? [/INST]",
    "<image>What",
    "<image> what",
    "<image>\n\n  two spaces\tand a tab",
    "two <image><image>\nimages <image> and text",
    "USER: Où est l'été? ASSISTANT: 日本で。 </s>USER: 🐶 und naïve Straße ASSISTANT:",
    "<s> A chat. </s><s>[INST] 3 dogs, 12,345.67 € [/INST]",
    'Auckland\'s\r\nA-B_c (x) "quoted" <unk> <pad>',
    "a" * 50 + " " + "é" * 20,
)


@dataclass
class Request:
    """What to check.

    Attributes:
        folder: the staged folder.
        base: the folder of its base.
        model_class: name of the class that has to be loaded.
        report: where to write the report.
        blocked: modules that must not be imported, since only the staged folder's own code may run.
        weights: whether both folders hold their weights; otherwise `tensor_names` is compared with an empty model.
        tensor_names: names of the base's tensors, used without weights.
    """

    folder: str
    base: str
    model_class: str
    report: str
    blocked: list[str]
    weights: bool = True
    tensor_names: list[str] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    request = Request(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    # Importing a name that stands for None fails, wherever mmtok may be installed.
    sys.modules.update(dict.fromkeys(request.blocked))  # type: ignore[arg-type]
    report: dict[str, Any] = {"problems": []}
    try:
        import transformers

        transformers.logging.set_verbosity_error()
        for check in (check_processor, check_classes, check_weights if request.weights else check_names):
            check(request, report)
            if report["problems"]:
                break
    except Exception as error:
        traceback.print_exc()
        report["problems"].append(_sentence(error))
    Path(request.report).write_text(json.dumps(report, indent=2), encoding="utf-8")
    return 0


def _sentence(error: BaseException) -> str:
    """The error in words; of failed imports the first, because the published modules try a second form of import."""
    while isinstance(error, ImportError) and isinstance(error.__context__, ImportError):
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def check_processor(request: Request, report: dict[str, Any]) -> None:
    """Ids, chats, pixels and generation settings are the base's."""
    import torch
    from transformers import AutoProcessor, GenerationConfig

    staged = AutoProcessor.from_pretrained(request.folder, trust_remote_code=True)
    base = AutoProcessor.from_pretrained(request.base)
    report["problems"] += tokenizer_differences(staged.tokenizer, base.tokenizer)
    chats = [_chat(QUESTION), [*_chat(QUESTION), *_turn("assistant", "No."), *_turn("user", "Où est-il?\nA")]]
    for chat in chats:
        texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for processor in (staged, base)]
        if texts[0] != texts[1]:
            report["problems"].append(f"the chat template writes {texts[0]!r}, the base's writes {texts[1]!r}")
        inputs = [
            processor(images=_image(), text=text, return_tensors="pt")
            for processor, text in zip((staged, base), texts, strict=True)
        ]
        for name in sorted({*inputs[0], *inputs[1]}):
            if name not in inputs[0] or name not in inputs[1] or not torch.equal(inputs[0][name], inputs[1][name]):
                report["problems"].append(f"the processor's {name} differ from the base's for {texts[1]!r}")
    if (Path(request.base) / "generation_config.json").exists():
        settings = [GenerationConfig.from_pretrained(folder).to_dict() for folder in (request.folder, request.base)]
        if settings[0] != settings[1]:
            report["problems"].append("generation_config.json differs from the base's")
    report["prompts_compared"] = len(TOKENIZER_PROMPTS) + len(chats)


def tokenizer_differences(staged: Any, base: Any) -> list[str]:
    """One sentence for every prompt that gives other ids, and for every special token that is another."""
    problems = []
    for prompt in TOKENIZER_PROMPTS:
        ours, theirs = staged(prompt)["input_ids"], base(prompt)["input_ids"]
        if ours != theirs:
            problems.append(f"the tokenizer gives {prompt!r} the ids {ours}, the base's gives {theirs}")
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "padding_side", "model_max_length"):
        if getattr(staged, name) != getattr(base, name):
            problems.append(f"the tokenizer's {name} is {getattr(staged, name)!r}, the base's {getattr(base, name)!r}")
    if len(staged) != len(base):
        problems.append(f"the tokenizer has {len(staged)} ids, the base's has {len(base)}")
    return problems


def check_classes(request: Request, report: dict[str, Any]) -> None:
    """Every automatic class leads to the staged folder's class."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(request.folder, trust_remote_code=True)
    for name in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        automatic = getattr(transformers, name, None)
        if automatic is None:
            continue  # older transformers have no AutoModelForMultimodalLM
        with torch.device("meta"):
            found = type(automatic.from_config(config, trust_remote_code=True)).__name__
        if found != request.model_class:
            report["problems"].append(f"{name} gives a {found} instead of {request.model_class}")
    report["model_class"] = request.model_class


def check_names(request: Request, report: dict[str, Any]) -> None:
    """The base's tensors and those of an empty model have the same names; for a base whose weights are not here."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(request.folder, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=True)
    tied = {canonical_name(name) for name in getattr(model, "all_tied_weights_keys", None) or {}}
    ours = {canonical_name(name) for name in model.state_dict()}
    theirs = {canonical_name(name) for name in request.tensor_names if not _is_computed(name)}
    report["problems"] += [f"the base lacks the tensor {name}" for name in sorted(ours - theirs - tied)]
    report["problems"] += [f"the base's tensor {name} has no place in the model" for name in sorted(theirs - ours)]
    report["tensors_compared"] = len(theirs)


def check_weights(request: Request, report: dict[str, Any]) -> None:
    """Keys, tensors and the logits of the full budget are the base's."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(request.folder, trust_remote_code=True)
    model, loaded = AutoModelForImageTextToText.from_pretrained(
        request.folder, dtype="auto", trust_remote_code=True, output_loading_info=True
    )
    report["problems"] += [
        f"{what.replace('_', ' ')} while loading: {sorted(map(str, keys))[:3]}" for what, keys in loaded.items() if keys
    ]
    report["tensors_compared"] = compare_tensors(model, Path(request.base), report["problems"])
    if report["problems"]:
        return
    text = processor.apply_chat_template(_chat(QUESTION), add_generation_prompt=True)
    inputs = processor(images=_image(), text=text, return_tensors="pt").to(dtype=model.dtype)
    with torch.no_grad():
        ours = model(**inputs, **every_token(model))
        kept = model.select_vision_tokens(**inputs).kept_mask
    report["prompt_tokens"], report["kept_tokens"] = int(inputs["attention_mask"].sum()), int(kept.sum())
    if not bool(ours.kept_mask[inputs["attention_mask"].bool()].all()):
        report["problems"].append("the full budget dropped a token")
    ours = ours.logits
    del model
    gc.collect()
    base = AutoModelForImageTextToText.from_pretrained(request.base, dtype="auto").eval()
    with torch.no_grad():
        theirs = base(**inputs).logits
    report["dtype"] = str(base.dtype)
    difference = (ours.float() - theirs.float()).abs().max().item()
    report["largest_logit_difference"] = difference
    if not torch.equal(ours, theirs):
        report["problems"].append(f"with the full budget the logits differ from the base's by up to {difference}")


def every_token(model: Any) -> dict[str, Any]:
    """Options with which nothing is dropped, whatever the configuration says; what a family refuses is left out."""
    # Row separators count as dropped otherwise, and padding as no candidate.
    neutral: dict[str, Any] = {"vision_token_budget": 1.0, "keep_image_newline": True, "exclude_padding": False}
    neutral |= {"coverage_target": None, "select_before_unpadding": False}
    return {name: value for name, value in neutral.items() if name not in model.refused_options}


def compare_tensors(model: Any, base: Path, problems: list[str]) -> int:
    """Compares the model's tensors with the base's files, one tensor at a time; returns how many."""
    import torch

    state = {canonical_name(name): tensor for name, tensor in model.state_dict().items()}
    seen, compared = set(), 0
    for name, read in _tensors(base):
        known = canonical_name(name)
        if _is_computed(name) and known not in state:
            continue
        compared += 1
        if known not in state:
            problems.append(f"the base's tensor {name} has no place in the model")
        elif not torch.equal(read.to(state[known].dtype), state[known]):
            problems.append(f"the tensor {name} is not the base's")
        else:
            seen.add(state[known].data_ptr())
    # A tied tensor is in no file; it shares the memory of one that is.
    unknown = sorted(name for name, tensor in state.items() if tensor.data_ptr() not in seen)
    problems += [f"the base has no tensor for {name}" for name in unknown]
    return compared


def _tensors(base: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    index = base / "model.safetensors.index.json"
    if index.exists():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    for file in files:
        with safe_open(base / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (the file is no mapping)
                yield name, tensors.get_tensor(name)


def canonical_name(name: str) -> str:
    """One name for a tensor in the llava-hf layout, in that of transformers since 4.52 and in that of 5.x."""
    name = name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")
    if name.startswith(("layers.", "embed_tokens.", "norm.")):  # Qwen2.5-VL's language model has no prefix
        return "language_model." + name
    if name.startswith("language_model."):
        inner = name.removeprefix("language_model.").removeprefix("model.")
        return inner if inner.startswith("lm_head.") else "language_model." + inner
    return name


def _is_computed(name: str) -> bool:
    """Buffers that old checkpoints hold and that every version of the model computes anew."""
    return name.endswith((".position_ids", ".rotary_emb.inv_freq"))


def _turn(role: str, text: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": text}]}]


def _chat(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def _image() -> Any:
    """A wide image with structure everywhere, so that no two patches are alike."""
    import torch
    from PIL import Image

    rows, columns = torch.arange(160)[:, None], torch.arange(320)[None, :]
    channels = [(rows * 3 + columns) % 256, (rows * columns // 7) % 256, (columns * 5 - rows * rows // 9) % 256]
    return Image.fromarray(torch.stack(channels, -1).to(torch.uint8).numpy())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
