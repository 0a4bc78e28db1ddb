"""The code files of a published model repository, byte for byte those of this release, flat in its root."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mmtok import hub

# What Hugging Face Inference Endpoints import from a repository; nothing in the model needs it.
HANDLER_FILE = "handler.py"
# The files that stand in the root of the project too: the model classes and their configurations.
ROOT_FILES = ("configuration_mmtok.py", "modeling_mmtok_llava.py")


def published_sources() -> dict[str, Path]:
    """Where the installed release keeps each published file: the root files and every module of `mmtok.hub`.

    Raises:
        FileNotFoundError: a module is not installed as a source file.
    """
    sources = {name: _source(name.removesuffix(".py")) for name in ROOT_FILES}
    folder = Path(hub.__file__).parent
    sources |= {path.name: path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"}
    return sources


def _source(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise FileNotFoundError(f"{module} is not installed as a source file: install mmtok again.")
    return Path(spec.origin)


# Names of the published files.
PUBLISHED_FILES: tuple[str, ...] = tuple(published_sources())
