"""Tokenizer, processor and generation files of a publication: they give exactly the base's ids."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from .base import LICENSE_FILES, SETTING_FILES, BaseCheckpoint, read_json
from .clean_load import tokenizer_differences
from .config_file import as_json

if TYPE_CHECKING:
    from transformers import ProcessorMixin

log = logging.getLogger(__name__)

_TOKENIZER_FILE, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_TOKENIZER_MODEL = "tokenizer.model"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_IMAGE_CONFIG = "preprocessor_config.json"


def load_processor(base: BaseCheckpoint) -> ProcessorMixin:
    """The base's processor, as the stock classes load it.

    Raises:
        ValueError: it does not load, or has no fast tokenizer.
    """
    if not _describes_images(base.folder):  # transformers 4.57 would go on with settings of its own
        raise ValueError(f"The processor of {base.name} does not load: it has no {_IMAGE_CONFIG}.")
    try:
        processor = AutoProcessor.from_pretrained(base.folder)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        advice = ""
        if (base.folder / _TOKENIZER_MODEL).exists() and not (base.folder / _TOKENIZER_FILE).exists():
            advice = f" Reading its {_TOKENIZER_MODEL} takes `pip install sentencepiece protobuf`."
        raise ValueError(f"The processor of {base.name} does not load: {error}{advice}") from error
    if getattr(getattr(processor, "tokenizer", None), "backend_tokenizer", None) is None:
        raise ValueError(f"{base.name} has no tokenizer that transformers can turn into a tokenizer.json.")
    return processor


def _describes_images(folder: Path) -> bool:
    """Whether a file says how images are prepared: one of its own, or a part of the processor's."""
    processor = folder / "processor_config.json"
    return (folder / _IMAGE_CONFIG).is_file() or (processor.is_file() and "image_processor" in read_json(processor))


def write_tokenizer_files(base: BaseCheckpoint, processor: Any, folder: Path) -> None:
    """Copies the base's files, and makes the tokenizer independent of the model type.

    transformers chooses a tokenizer class by model type. The publication's type is new to it, and the class that
    tokenizer_config.json names can then give other ids behind `<image>`; PreTrainedTokenizerFast takes tokenizer.json
    as it is. Where the base has no such file, or its own class reads it in another way, it is written from the
    tokenizer as loaded.

    Raises:
        ValueError: the ids still differ from the base's.
    """
    for name in (*SETTING_FILES, *LICENSE_FILES):
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)
    config = folder / _TOKENIZER_CONFIG
    settings = read_json(config) if config.exists() else {}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # transformers 4.57 lets that class return token_type_ids, also for the base; generate refuses them.
    settings["model_input_names"] = [name for name in processor.tokenizer.model_input_names if name != "token_type_ids"]
    # The base's own class may have defaults for what the file leaves out.
    for name in _SPECIAL_TOKENS:
        token = getattr(processor.tokenizer, name)
        if settings.get(name) is None and token is not None:
            settings[name] = str(token)
    config.write_text(as_json(settings), encoding="utf-8")

    differences = ["there is no tokenizer.json"]
    if (folder / _TOKENIZER_FILE).exists():
        differences = _differences(folder, processor.tokenizer)
    else:
        log.warning(
            "%s has no tokenizer.json: it is written from what transformers %s reads. Versions differ in "
            "how they read tokenizer.model; compare a few ids with SentencePiece's own.",
            base.name,
            transformers.__version__,
        )
    if differences:
        processor.tokenizer.backend_tokenizer.save(str(folder / _TOKENIZER_FILE))
        differences = _differences(folder, processor.tokenizer)
    if differences:
        raise ValueError(f"The tokenizer of {base.name} cannot be published: {differences[0]}.")


def _differences(folder: Path, tokenizer: Any) -> list[str]:
    return tokenizer_differences(PreTrainedTokenizerFast.from_pretrained(folder), tokenizer)
