"""The code files of a published repository: the installed ones, flat in one folder, made by one step.

The step turns `from mmtok.hub.images import ...` and `from configuration_mmtok import ...` into imports from the same
folder, and writes under each file that transformers begins with the names of all others: before 5.10 it copies no file
that this one does not name. `verify` makes the same text again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from mmtok.auto_classes import AUTOMATIC
from mmtok.hub.families import FAMILIES, Family, family_of
from mmtok.hub.releases import OLDEST_TESTED

# What Hugging Face Inference Endpoints import from a repository; nothing in the model needs it.
HANDLER_FILE = "handler.py"
# What `generate(custom_generate=...)` loads, and where transformers looks for it in a repository.
GENERATE_FOLDER, GENERATE_FILE = "custom_generate", "generate.py"
# transformers reads it before it runs the code, and names what is missing.
REQUIREMENTS_FILE, REQUIREMENTS = f"{GENERATE_FOLDER}/requirements.txt", f"transformers>={OLDEST_TESTED}\n"

_CONFIGURATION, _PIPELINE = "configuration_mmtok", "pipeline"
_FROM_HERE = re.compile(rf"^( *)from (?:mmtok\.hub\.|(?={_CONFIGURATION}\b))(\w+) import", re.MULTILINE)
# As transformers finds the files that a file needs.
_RELATIVE = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)


def published_code(model_type: str) -> dict[str, bytes]:
    """The code files of a repository of one model type.

    These are the configuration, the modeling file of the family, pipeline and handler, and what they import.

    Args:
        model_type: of the stock checkpoint, such as "llava", or of the class that prunes it, such as "mmtok_llava".

    Returns:
        Name in the repository -> content.

    Raises:
        ValueError: no family has this model type.
        FileNotFoundError: a module is not installed as a source file.
    """
    entries = (_CONFIGURATION, family_of(model_type).module, _PIPELINE)
    handler = {HANDLER_FILE: _text(HANDLER_FILE.removesuffix(".py")).encode()}
    return _flat(entries, entries) | handler


def generate_code() -> dict[str, bytes]:
    """The code files of a `custom_generate` repository: those of every family.

    Returns:
        Path in the repository -> content.

    Raises:
        FileNotFoundError: a module is not installed as a source file.
    """
    entry = GENERATE_FILE.removesuffix(".py")
    files = _flat((entry, _CONFIGURATION, *(family.module for family in FAMILIES.values())), (entry,))
    return {f"{GENERATE_FOLDER}/{name}": content for name, content in files.items()}


def auto_map(family: Family) -> dict[str, str]:
    """Which class of which file each automatic class of transformers leads to."""
    model = f"{family.module}.{family.model_class}"
    return {"AutoConfig": f"{_CONFIGURATION}.{family.config_class}", **dict.fromkeys(AUTOMATIC, model)}


def _flat(modules: Iterable[str], entries: Iterable[str]) -> dict[str, bytes]:
    """These modules and what they import, by file name, in order; `entries` name all of them."""
    texts: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in texts:
            texts[module] = _FROM_HERE.sub(r"\1from .\2 import", _text(module))
            waiting += _RELATIVE.findall(texts[module])
    for entry in entries:
        names = [f"    from .{other} import __name__ as _\n" for other in sorted(texts) if other != entry]
        reason = "# Never run: transformers before 5.10 copies no file that this one does not name."
        texts[entry] += f"\nif False:\n    {reason}\n{''.join(names)}"
    return {f"{module}.py": texts[module].encode() for module in sorted(texts)}


def _text(module: str) -> str:
    """The source of a module that is published, of `mmtok.hub` or a root file."""
    spec = find_spec(f"mmtok.hub.{module}") or find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise FileNotFoundError(f"{module} is not installed as a source file: install mmtok again.")
    return Path(spec.origin).read_text(encoding="utf-8")
