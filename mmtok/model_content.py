"""What a model is made of, as one text: answers of two models must never be mixed, whatever the two are called."""

from __future__ import annotations

import hashlib
from pathlib import Path

from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from mmtok.publish.hub import check_model_name

# A file of up to this many bytes is hashed whole, a larger one in samples that are spread over it.
_WHOLE = 2**25
_SAMPLES, _SAMPLE_BYTES = 64, 2**16
_NOT_USED = (".md", ".png", ".lock")


def model_content(model: str | Path, revision: str | None = None) -> str:
    """A hash of a model's files (weights, configuration, tokenizer, templates, code), or the commit of a repository.

    Args:
        model: folder or Hub id.
        revision: branch, tag or commit of a repository.

    Raises:
        ValueError: neither a folder with a model nor a Hub id.
        OSError: there is no such repository.
    """
    folder = Path(check_model_name(model))
    if not folder.is_dir():
        return f"commit {extract_commit_hash(cached_file(str(model), 'config.json', revision=revision), None)}"
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _NOT_USED:
            content.update(f"{path.name} {path.stat().st_size} {_file_hash(path)}\n".encode())
    return f"sha256 {content.hexdigest()}"


def _file_hash(path: Path) -> str:
    size, content = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= _WHOLE:
            content.update(file.read())
        else:
            for sample in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                content.update(file.read(_SAMPLE_BYTES))
    return content.hexdigest()
