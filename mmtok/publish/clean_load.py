"""A program: loads what was staged as a user without mmtok would, and compares it with its base or with stock.

It runs in a process of its own (see `clean_process`), imports torch, transformers and safetensors alone, and keeps one
model in memory at a time. Called with a JSON file that holds the fields of `Request`, it writes a report to the path
named there. `base` says what is wrong with the base, `problems` what is wrong with what was staged.

What is compared of a model of any size, without a second look at bytes that are the base's own:

- ids, chats, pixels and generation settings of the whole processor;
- names, types and shapes of every tensor, by loading files with headers alone onto torch's meta device, with the base's
  class and with the staged one;
- the way from pixels to logits with the real weights of the vision tower, the projector, the embeddings and the first
  `LAYERS` layers of the language model, bit for bit; with all layers where `full` is asked for.
"""

from __future__ import annotations

import gc
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# DeepStack adds features of the tower to the first three layers.
LAYERS = 3
# Numbers of a module that is computed in float32, 1 GB.
LARGEST = 2**28
# Options with which nothing is dropped, whatever the configuration says.
EVERY_TOKEN = {"vision_token_budget": 1.0, "padding": "stock", "coverage_target": None, "image_scale": None}
IMAGE, VOCABULARY, TOKENS = 63, 64, 16
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
    """What to check, of a staged folder: without `base` and `fit` that of a `custom_generate` repository."""

    folder: str
    report: str  # where to write it
    base: str = ""  # a folder with the files of the base and nothing else
    model_class: str = ""
    fit: tuple[str, ...] = ()  # folders of the base and of what was staged, with weights of headers alone
    weights: bool = True  # are in both folders
    full: bool = False  # all layers instead of `LAYERS` of them


class BaseFault(Exception):
    """The base itself is not what transformers' own class takes."""


def main(arguments: list[str]) -> int:
    request = Request(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    checks = [check_fit if request.fit else check_generate]
    if request.base:
        checks = [check_processor, check_classes, check_fit, *([check_logits] if request.weights else [])]
    report: dict[str, Any] = {"problems": [], "base": []}
    try:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        for check in checks:
            if not report["problems"]:
                check(request, report)
    except BaseFault as fault:
        report["base"].append(str(fault))
    except Exception as error:
        traceback.print_exc()
        report["problems"].append(f"{type(error).__name__}: {error}")
    Path(request.report).write_text(json.dumps(report, indent=2), encoding="utf-8")
    return 0


@contextmanager
def _of_the_base(what: str) -> Iterator[None]:
    """Says of an error that the base is at fault, which the stock class loads here."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        raise BaseFault(f"{what} with transformers' own class: {type(error).__name__}: {error}") from error


def check_processor(request: Request, report: dict[str, Any]) -> None:
    """Ids, chats, pixels and generation settings are the base's."""
    import torch
    from transformers import AutoProcessor, GenerationConfig

    with _of_the_base("its processor does not load"):
        base = AutoProcessor.from_pretrained(request.base, trust_remote_code=False)
    staged = AutoProcessor.from_pretrained(request.folder, trust_remote_code=True)
    report["problems"] += tokenizer_differences(staged.tokenizer, base.tokenizer)
    chats = [CHAT, [*CHAT, _turn("assistant", "No."), _turn("user", "Où est-il?\nA")]]
    for chat in chats:
        with _of_the_base("its chat template does not work"):
            theirs = prompt_of(base, chat)
        ours = prompt_of(staged, chat)
        if ours != theirs:
            report["problems"].append(f"the chat template writes {ours!r}, the base's writes {theirs!r}")
        with _of_the_base("its processor does not work"):
            there = base(images=_image(), text=theirs, return_tensors="pt")
        here = staged(images=_image(), text=ours, return_tensors="pt")
        for name in sorted({*here, *there}):
            if name not in here or name not in there or not torch.equal(here[name], there[name]):
                report["problems"].append(f"the processor's {name} differ from the base's for {theirs!r}")
    if (Path(request.base) / "generation_config.json").exists():
        with _of_the_base("generation_config.json does not load"):
            there = GenerationConfig.from_pretrained(request.base).to_dict()
        if GenerationConfig.from_pretrained(request.folder).to_dict() != there:
            report["problems"].append("generation_config.json differs from the base's")
    report["prompts_compared"] = len(TOKENIZER_PROMPTS) + len(chats)


def prompt_of(processor: Any, chat: list[dict[str, Any]]) -> str:
    """A chat as a prompt; written by hand for a processor without a chat template."""
    if getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None):
        return str(processor.apply_chat_template(chat, add_generation_prompt=True))
    return "\n".join(part.get("text", image_text(processor)) for turn in chat for part in turn["content"])


def image_text(processor: Any) -> str:
    """What stands for an image in a prompt that is written without a chat template."""
    image = str(getattr(processor, "image_token", "<image>"))
    marked = "<|vision_start|>" in processor.tokenizer.get_vocab()
    return f"<|vision_start|>{image}<|vision_end|>" if marked else image


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


def check_fit(request: Request, report: dict[str, Any]) -> None:
    """Names and shapes of the base's tensors are those of its own class and of the staged one."""
    base, staged = request.fit
    with _of_the_base("its weights do not load"):
        misfits = _misfits(base, trust=False)
    if misfits:
        raise BaseFault(f"its weights do not fit its config.json with transformers' own class: {'; '.join(misfits)}")
    report["problems"] += _misfits(staged, trust=True)


def _misfits(folder: str, *, trust: bool) -> list[str]:
    from transformers import AutoModelForImageTextToText

    _, loaded = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype="auto",
        device_map="meta",
        trust_remote_code=trust,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported then, not raised
    )
    return [
        f"{len(keys)} {what.replace('_', ' ')}, {sorted(map(str, keys))[0]}" for what, keys in loaded.items() if keys
    ]


def check_logits(request: Request, report: dict[str, Any]) -> None:
    """With the full budget the logits are the base's, bit for bit."""
    import torch
    from transformers import AutoProcessor

    layers = None if request.full else LAYERS
    processor = AutoProcessor.from_pretrained(request.folder, trust_remote_code=True)
    with _of_the_base("its weights do not work"):
        base = _load(request.base, layers, trust=False)
        inputs = processor(images=_image(), text=prompt_of(processor, CHAT), return_tensors="pt")
        inputs = inputs.to(dtype=base.dtype)
        with torch.no_grad():
            theirs = base(**inputs).logits
    report["dtype"] = str(inputs["pixel_values"].dtype)
    report["layers"] = base.config.get_text_config().num_hidden_layers
    del base
    gc.collect()
    if theirs.isnan().any():
        raise BaseFault("its logits are NaN with transformers' own class: a weight is NaN or infinite")
    model = _load(request.folder, layers, trust=True)
    with torch.no_grad():
        output = model(**inputs, **EVERY_TOKEN)
        kept = model.select_vision_tokens(**inputs).kept_mask
    report["prompt_tokens"], report["kept_tokens"] = int(inputs["attention_mask"].sum()), int(kept.sum())
    if not bool(output.kept_mask[inputs["attention_mask"].bool()].all()):
        report["problems"].append("the full budget dropped a token")
    difference = (output.logits.float() - theirs.float()).abs().max().item()
    report["largest_logit_difference"] = difference
    if not torch.equal(output.logits, theirs):
        report["problems"].append(f"with the full budget the logits differ from the base's by up to {difference}")


def _load(folder: str, layers: int | None, *, trust: bool) -> Any:
    """The model in evaluation mode, with the first layers of its language model where `layers` says how many."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    text = config.get_text_config()
    if layers is not None and text.num_hidden_layers > layers:
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    model, loaded = AutoModelForImageTextToText.from_pretrained(
        folder, config=config, dtype="auto", trust_remote_code=trust, output_loading_info=True
    )
    if loaded["missing_keys"]:
        raise ValueError(f"missing keys while loading: {sorted(map(str, loaded['missing_keys']))[:3]}")
    for module in model.modules():
        _compute_in_float32(module)
    return model.eval()


def _compute_in_float32(module: Any) -> None:
    """Lets a module have its weights in float32 while it runs: processors are several times faster in it.

    The weights stay in the pages of their files otherwise, so that the memory is that of the largest module. Embeddings
    and modules of more than `LARGEST` numbers keep their type.
    """
    import torch

    own = {name: parameter.data for name, parameter in module.named_parameters(recurse=False)}
    if all(tensor.dtype == torch.float32 for tensor in own.values()):
        return
    keeps = isinstance(module, torch.nn.Embedding) or sum(map(torch.numel, own.values())) > LARGEST
    dtype = next(iter(own.values())).dtype if keeps else torch.float32

    def cast(value: Any, dtype: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def begin(module: Any, given: Any, named: Any) -> Any:
        for name, tensor in own.items():
            getattr(module, name).data = cast(tensor, dtype)
        return tuple(cast(value, dtype) for value in given), {name: cast(value, dtype) for name, value in named.items()}

    def end(module: Any, given: Any, output: Any) -> Any:
        for name, tensor in own.items():
            getattr(module, name).data = tensor
        return cast(output, torch.float32)

    module.register_forward_pre_hook(begin, with_kwargs=True)
    module.register_forward_hook(end)


def check_generate(request: Request, report: dict[str, Any]) -> None:
    """Every class loads; a small LLaVA answers with few tokens, and as stock with pruning off and the full budget."""
    import torch

    model, inputs = _small_model()
    ours = {"custom_generate": request.folder, "trust_remote_code": True, "do_sample": False, "max_new_tokens": 4}
    stock = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    for budget, name in ((None, "pruning off"), (TOKENS, "the full budget")):
        if not torch.equal(model.generate(**inputs, **ours, vision_token_budget=budget), stock):
            report["problems"].append(f"with {name} generate returns other tokens than stock")
    if model.generate(**inputs, **ours, vision_token_budget=2).shape != stock.shape:
        report["problems"].append("with a budget generate returns another shape than stock")
    loaded = sys.modules[model.load_custom_generate(request.folder, trust_remote_code=True).__module__]
    families = sys.modules[f"{loaded.__package__}.families"].FAMILIES.values()
    there = [family for family in families if family.is_available()]
    report["classes"] = [each.stock_class for each in there if each.load_class().__name__ == each.model_class]


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


def _turn(role: str, text: str, *before: dict[str, str]) -> dict[str, Any]:
    return {"role": role, "content": [*before, {"type": "text", "text": text}]}


CHAT = [_turn("user", "Is there a snowboard in the image? Answer with one word.", {"type": "image"})]


def _image() -> Any:
    """A wide image with structure everywhere, so that no two patches are alike."""
    import torch
    from PIL import Image

    rows, columns = torch.arange(160)[:, None], torch.arange(320)[None, :]
    channels = [(rows * 3 + columns) % 256, (rows * columns // 7) % 256, (columns * 5 - rows * rows // 9) % 256]
    return Image.fromarray(torch.stack(channels, -1).to(torch.uint8).numpy())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
