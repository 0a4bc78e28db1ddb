"""The settings of a publication, made from the base's files: configuration, question format, tokenizer, processor."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from mmtok import install_line
from mmtok.hub.families import PREFIX
from mmtok.hub.options import OPTION_NAMES, PruningOptions, require_meaningful
from mmtok.hub.tokenizer_source import TokenizerSource, checked_tokenizer

from .base import BaseCheckpoint
from .clean_load import tokenizer_differences
from .repository import (
    CONFIG_FILE,
    LICENSE_FILES,
    SETTING_FILES,
    TOKENIZER_CONFIG,
    as_json,
    auto_map,
    read_json,
    shown,
    without_origins,
)

if TYPE_CHECKING:
    from transformers import ProcessorMixin

log = logging.getLogger(__name__)

# The texts of a conversation whose questions have to be found.
_FIRST, _ANSWER, _SECOND = "Where is the red car", "on the right", "Is there a dog on the left"
_TOKENIZER_FILE = "tokenizer.json"
_IMAGE_CONFIG, _PROCESSOR_CONFIG = "preprocessor_config.json", "processor_config.json"


def published_config(base: BaseCheckpoint, pruning_options: Mapping[str, Any]) -> dict[str, Any]:
    """The base's configuration, every field of it, for the class that prunes.

    Options that are not given get the default of the model's family; a ValueError for a value that means nothing there.
    """
    options = PruningOptions(**{**base.family.defaults, **pruning_options})
    require_meaningful(options, base.family.load_class().own_options, base.family.title)
    return {
        **without_origins(base.config),
        "architectures": [base.family.model_class],
        "auto_map": auto_map(base.family),
        "model_type": PREFIX + base.config["model_type"],
        **{name: getattr(options, name) for name in OPTION_NAMES},
    }


def load_processor(base: BaseCheckpoint) -> ProcessorMixin:
    """The processor of a base in a folder of its own as the stock classes load it; no code of it runs.

    A ValueError names the file where it does not load, has no fast tokenizer, or lacks a field.
    """
    own = base.folder / _PROCESSOR_CONFIG
    if not (_IMAGE_CONFIG in base.sources or (own.exists() and "image_processor" in read_json(own))):
        # transformers 4.57 would go on with settings of its own
        raise ValueError(f"The processor of {base.name} cannot be used: it has no {_IMAGE_CONFIG}.")
    with base.reading("The processor"):
        try:
            processor = AutoProcessor.from_pretrained(base.folder, trust_remote_code=False)
        except ImportError as error:
            if "torchvision" in str(error).lower():
                raise ValueError(
                    f"{base.family.title} processors of transformers need torchvision, which is not installed: run "
                    f"`pip install torchvision`, or `{install_line('video')}`."
                ) from error
            if "tokenizer.model" not in base.sources or _TOKENIZER_FILE in base.sources:
                raise
            advice = "Reading its tokenizer.model takes `pip install sentencepiece protobuf`."
            raise ValueError(f"{error} {advice}") from error
    if getattr(getattr(processor, "tokenizer", None), "backend_tokenizer", None) is None:
        raise ValueError(f"{base.name} has no tokenizer that transformers can turn into a tokenizer.json.")
    for name, wanted in (("patch_size", int), ("vision_feature_select_strategy", str)):
        value = getattr(processor, name, 0)
        if hasattr(processor, name) and (not isinstance(value, wanted) or not value):
            raise ValueError(
                f"{base.name} has the {name} {shown(repr(value))} in {_PROCESSOR_CONFIG}, which counts the vision "
                f"tokens of a prompt: write there what {CONFIG_FILE} says."
            )
    return processor


def write_settings(base: BaseCheckpoint, tokenizer: Any, folder: Path) -> None:
    """Copies the base's files, and makes the tokenizer independent of the model type.

    transformers chooses a tokenizer class by model type. The publication's type is new to it, and the class that
    tokenizer_config.json names can then give other ids behind `<image>`; PreTrainedTokenizerFast takes tokenizer.json
    as it is. Where the base has no such file, or its own class reads it in another way, it is written from `tokenizer`,
    which that class has loaded; a ValueError where the ids still differ.
    """
    for name in (*SETTING_FILES, *LICENSE_FILES):
        if name in base.sources:
            shutil.copyfile(base.folder / name, folder / name)
            content = read_json(folder / name) if name.endswith("_config.json") else {}
            if content != without_origins(content):
                (folder / name).write_text(as_json(without_origins(content)), encoding="utf-8")
    config = folder / TOKENIZER_CONFIG
    settings = read_json(config) if config.exists() else {}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # transformers 4.57 lets that class return token_type_ids, also for the base; generate refuses them.
    settings["model_input_names"] = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    # The base's own class may have defaults for what the file leaves out.
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = getattr(tokenizer, name)
        if settings.get(name) is None and token is not None:
            settings[name] = str(token)
    config.write_text(as_json(settings), encoding="utf-8")

    def differences() -> list[str]:
        return tokenizer_differences(PreTrainedTokenizerFast.from_pretrained(folder), tokenizer)

    as_it_is = (folder / _TOKENIZER_FILE).exists()
    if not as_it_is:
        log.warning(
            "%s has no tokenizer.json: it is written from what transformers %s reads. Versions differ in "
            "how they read tokenizer.model; compare a few ids with SentencePiece's own.",
            base.name,
            transformers.__version__,
        )
    if as_it_is and not differences():
        return
    tokenizer.backend_tokenizer.save(str(folder / _TOKENIZER_FILE))
    if found := differences():
        raise ValueError(f"The tokenizer of {base.name} cannot be published: {shown(found[0])}.")


def question_format_of(processor: Any, given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The `question_format` with which the questions of a chat template are found.

    It is `given` where the known formats or its own are enough, or where there is no template; else with the markers
    that the template writes. A ValueError for a tokenizer without a fast form, a template that cannot write a
    conversation, or one whose questions are not found.
    """
    tokenizer, template = processor.tokenizer, chat_template_of(processor)
    source = TokenizerSource(checked_tokenizer(tokenizer))
    if not template:
        return given
    turns = (("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND))
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    messages[0]["content"] = [{"type": "image"}, *messages[0]["content"]]
    try:
        conversation = str(
            tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
        )
    except Exception as error:  # whatever a template raises
        raise ValueError(f"The chat template cannot write a conversation with an image: {error}") from error
    before_answer, _, behind_answer = conversation.partition(_ANSWER)

    def is_found(question_format: dict[str, Any] | None) -> bool:
        reader = source.reader(question_format, ())
        assert reader is not None, "the source was made of a tokenizer"
        prompts = ((before_answer, _FIRST), (conversation, _SECOND))
        ids = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair] for pair in prompts]
        # Of a question the text that its ids have: a small vocabulary knows few words.
        return all(reader.read(prompt) == reader.read_text(reader.text(question)) for prompt, question in ids)

    if is_found(given):
        return given
    # What stands between the texts, as it is written.
    opens_answer = before_answer.partition(_FIRST)[2].strip()
    opens_question = behind_answer.partition(_SECOND)[0].strip()
    derived = {**(given or {}), "user_turns": [opens_question], "assistant_turns": [opens_answer], "other_turns": []}
    if (given or {}).get("user_turns") or not (opens_question and opens_answer and is_found(derived)):
        raise ValueError(
            f"The questions are not found in what the chat template writes, {conversation!r}: name what opens the "
            "turns in question_format, with user_turns, assistant_turns and other_turns."
        )
    return derived


def chat_template_of(processor: Any) -> str | None:
    """The chat template of a processor, or of its tokenizer; of several, the default one."""
    template = processor.chat_template or getattr(processor.tokenizer, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template
