"""The settings of a publication, made from the base's files: configuration, question format, tokenizer, processor."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from configuration_mmtok import OPTION_NAMES, PruningOptions
from mmtok import install_line
from mmtok.hub.families import PREFIX
from mmtok.hub.options import require_meaningful
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
_TOKENIZER_FILE, _TOKENIZER_MODEL = "tokenizer.json", "tokenizer.model"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_IMAGE_CONFIG, _PROCESSOR_CONFIG = "preprocessor_config.json", "processor_config.json"


def check_options(pruning_options: Mapping[str, Any]) -> None:
    """Raises a ValueError that names an unknown option, or a value out of range."""
    unknown = sorted(set(pruning_options) - set(OPTION_NAMES))
    if unknown:
        raise ValueError(f"There is no option {unknown[0]!r}: the options are {', '.join(OPTION_NAMES)}.")
    PruningOptions(**pruning_options)


def published_config(base: BaseCheckpoint, pruning_options: Mapping[str, Any]) -> dict[str, Any]:
    """The base's configuration, every field of it, for the class that prunes.

    Args:
        base: the checkpoint.
        pruning_options: any of `PruningOptions`; the others get the default of the model's family.

    Raises:
        ValueError: an unknown option, or a value out of range.
    """
    check_options(pruning_options)
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
    """The base's processor, as the stock classes load it; no code of the base runs.

    Args:
        base: the checkpoint in a folder that holds nothing else, see `BaseCheckpoint.copied_to`.

    Raises:
        ValueError: it does not load, has no fast tokenizer, or lacks a field; the message names the file.
    """
    if not _describes_images(base.folder):  # transformers 4.57 would go on with settings of its own
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
            if (base.folder / _TOKENIZER_MODEL).exists() and not (base.folder / _TOKENIZER_FILE).exists():
                advice = f"Reading its {_TOKENIZER_MODEL} takes `pip install sentencepiece protobuf`."
                raise ValueError(f"{error} {advice}") from error
            raise
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


def _describes_images(folder: Path) -> bool:
    """Whether a file says how images are prepared: one of its own, or a part of the processor's."""
    processor = folder / _PROCESSOR_CONFIG
    return (folder / _IMAGE_CONFIG).is_file() or (processor.is_file() and "image_processor" in read_json(processor))


def write_settings(base: BaseCheckpoint, tokenizer: Any, folder: Path) -> None:
    """Copies the base's files, and makes the tokenizer independent of the model type.

    transformers chooses a tokenizer class by model type. The publication's type is new to it, and the class that
    tokenizer_config.json names can then give other ids behind `<image>`; PreTrainedTokenizerFast takes tokenizer.json
    as it is. Where the base has no such file, or its own class reads it in another way, it is written from the
    tokenizer as loaded.

    Args:
        base: the checkpoint.
        tokenizer: the base's, as its own class loads it.
        folder: where to.

    Raises:
        ValueError: the ids still differ from the base's.
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
    for name in _SPECIAL_TOKENS:
        token = getattr(tokenizer, name)
        if settings.get(name) is None and token is not None:
            settings[name] = str(token)
    config.write_text(as_json(settings), encoding="utf-8")

    differences = ["there is no tokenizer.json"]
    if (folder / _TOKENIZER_FILE).exists():
        differences = _differences(folder, tokenizer)
    else:
        log.warning(
            "%s has no tokenizer.json: it is written from what transformers %s reads. Versions differ in "
            "how they read tokenizer.model; compare a few ids with SentencePiece's own.",
            base.name,
            transformers.__version__,
        )
    if differences:
        tokenizer.backend_tokenizer.save(str(folder / _TOKENIZER_FILE))
        differences = _differences(folder, tokenizer)
    if differences:
        raise ValueError(f"The tokenizer of {base.name} cannot be published: {shown(differences[0])}.")


def _differences(folder: Path, tokenizer: Any) -> list[str]:
    return tokenizer_differences(PreTrainedTokenizerFast.from_pretrained(folder), tokenizer)


def question_format_of(processor: Any, given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The `question_format` with which the questions of a chat template are found.

    Args:
        processor: a processor with a tokenizer, and a chat template or none.
        given: what the caller chose, or None.

    Returns:
        `given` where the known formats or its own are enough, or where there is no template; else with the markers that
        the template writes.

    Raises:
        ValueError: a tokenizer without a fast form, a template that cannot write a conversation, or one whose questions
            are not found.
    """
    source = TokenizerSource(checked_tokenizer(processor.tokenizer))
    if not chat_template_of(processor):
        return given
    conversation = _written(processor)
    if _is_found(source, conversation, processor, given):
        return given
    derived = {**(given or {}), **_markers(conversation)}
    if (given or {}).get("user_turns") or not all(derived[name][0] for name in ("user_turns", "assistant_turns")):
        derived = {}
    if not derived or not _is_found(source, conversation, processor, derived):
        raise ValueError(
            f"The questions are not found in what the chat template writes, {conversation!r}: name what opens the "
            "turns in question_format, with user_turns, assistant_turns and other_turns."
        )
    return derived


def chat_template_of(processor: Any) -> str | None:
    """The chat template of a processor, or of its tokenizer; of several, the default one."""
    template = processor.chat_template or getattr(processor.tokenizer, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


def _written(processor: Any) -> str:
    """A conversation of an image with a question, its answer and a second question, up to the second answer."""

    def turn(role: str, *content: dict[str, str]) -> dict[str, Any]:
        return {"role": role, "content": list(content)}

    texts = [{"type": "text", "text": each} for each in (_FIRST, _ANSWER, _SECOND)]
    messages = [
        turn("user", {"type": "image"}, texts[0]),
        turn("assistant", texts[1]),
        turn("user", texts[2]),
    ]
    try:
        return str(
            processor.tokenizer.apply_chat_template(
                messages, chat_template=chat_template_of(processor), tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # whatever a template raises
        raise ValueError(f"The chat template cannot write a conversation with an image: {error}") from error


def _is_found(source: TokenizerSource, conversation: str, processor: Any, given: dict[str, Any] | None) -> bool:
    reader = source.reader(given, ())
    assert reader is not None, "the source was made of a tokenizer"
    first = conversation[: max(conversation.find(_ANSWER), 0)]

    def ids(text: str) -> list[int]:
        return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    # Of a question the text that its ids have: a small vocabulary knows few words.
    return all(
        reader.read(ids(text)) == reader.read_text(reader.text(ids(question)))
        for text, question in ((first, _FIRST), (conversation, _SECOND))
    )


def _markers(conversation: str) -> dict[str, list[str]]:
    """What stands between the texts of a conversation, as it is written."""
    before_answer = conversation.partition(_FIRST)[2].partition(_ANSWER)[0]
    before_question = conversation.partition(_ANSWER)[2].partition(_SECOND)[0]
    return {"user_turns": [before_question.strip()], "assistant_turns": [before_answer.strip()], "other_turns": []}
