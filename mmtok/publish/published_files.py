"""The code files of a published model repository, byte for byte those of this release, flat in its root."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mmtok.hub.host import OLDEST_TESTED

from .families import FAMILIES, family_of

# What Hugging Face Inference Endpoints import from a repository; nothing in the model needs it.
HANDLER_FILE = "handler.py"
CONFIGURATION_FILE = "configuration_mmtok.py"
# What `generate(custom_generate=...)` loads, and where transformers looks for it in a repository.
GENERATE_FOLDER, GENERATE_FILE = "custom_generate", "generate.py"
# transformers reads it before it runs the code, and names what is missing.
REQUIREMENTS_FILE, REQUIREMENTS = f"{GENERATE_FOLDER}/requirements.txt", f"transformers>={OLDEST_TESTED}\n"


def published_sources(model_type: str) -> dict[str, Path]:
    """Where the installed release keeps each file that a repository of one model type gets.

    These are the two root files of the family and the modules of `mmtok.hub`, without those of other families.

    Args:
        model_type: of the stock checkpoint, such as "llava", or of the class that prunes it, such as "mmtok_llava".

    Returns:
        Name in the repository -> file of this release.

    Raises:
        ValueError: no family has this model type.
        FileNotFoundError: a module is not installed as a source file.
    """
    family = family_of(model_type)
    roots = (CONFIGURATION_FILE, family.modeling_file)
    sources = {name: _source(name.removesuffix(".py")) for name in roots}
    folder = _source("mmtok.hub").parent
    others = {name for each in FAMILIES.values() for name in each.own_modules} - set(family.own_modules)
    left_out = {"__init__.py", GENERATE_FILE, *others}
    return sources | {path.name: path for path in sorted(folder.glob("*.py")) if path.name not in left_out}


def generate_sources() -> dict[str, Path]:
    """Where the installed release keeps each file of a `custom_generate` repository: those of every family.

    Returns:
        Path in the repository -> file of this release.

    Raises:
        FileNotFoundError: a module is not installed as a source file.
    """
    sources = {name: path for model_type in FAMILIES for name, path in published_sources(model_type).items()}
    del sources[HANDLER_FILE]
    sources[GENERATE_FILE] = _source("mmtok.hub.generate")
    return {f"{GENERATE_FOLDER}/{name}": sources[name] for name in sorted(sources)}


def _source(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise FileNotFoundError(f"{module} is not installed as a source file: install mmtok again.")
    return Path(spec.origin)
