"""What a repository of this project holds: its code, the names it may have, what its JSON files may say.

A base and a published repository are data until they are checked. Which files transformers loads is decided by their
names, and what these lead to by fields of their JSON: so there is a list of names, and every JSON file is read.

The code files are the installed ones, flat in one folder, made by one step. It turns `from mmtok.hub.images import ...`
and `from configuration_mmtok import ...` into imports from the same folder, and writes under each file that
transformers begins with the names of all others: before 5.10 it copies no file that this one does not name. `verify`
makes the same text again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmtok import AUTOMATIC
from mmtok.hub.families import FAMILIES, Family, family_of
from mmtok.hub.releases import OLDEST_TESTED

CONFIG_FILE, CARD_FILE = "config.json", "README.md"
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# What Hugging Face Inference Endpoints import from a repository; nothing in the model needs it.
HANDLER_FILE = "handler.py"
# What `generate(custom_generate=...)` loads, and where transformers looks for it in a repository.
GENERATE_FOLDER, GENERATE_FILE = "custom_generate", "generate.py"
# transformers reads it before it runs the code, and names what is missing.
REQUIREMENTS_FILE, REQUIREMENTS = f"{GENERATE_FOLDER}/requirements.txt", f"transformers>={OLDEST_TESTED}\n"
# What tokenizer, processor and generation consist of; the rest of a base is not taken over.
SETTING_FILES: tuple[str, ...] = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "video_preprocessor_config.json",
    "vocab.json",
)
LICENSE_FILES: tuple[str, ...] = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt")
# Read by people and by git alone.
_FOR_READERS = frozenset({CARD_FILE, ".gitattributes", *LICENSE_FILES})
# What git and `hf download --local-dir` keep in a folder of their own.
_OF_TOOLS = (".git/", ".cache/huggingface/")
# Tables of the tokenizers library: their keys are words, not settings.
_TABLES = frozenset({"added_tokens.json", "tokenizer.json", "vocab.json"})
MOST_JSON_BYTES = 64 * 2**20

# Fields with which transformers, or a library that it calls, loads code, another repository, a kernel, an adapter,
# other weights or another file.
_LEADS_AWAY = re.compile(
    r"auto_map|custom_\w+|configuration_files|transformers_weights|\w+_files?|\w*name_or_path|peft\w*|\w*adapter\w*"
    r"|audio_tokenizer\w*|\w*backbone\w*|\w*kernel\w*|gguf\w*|quantization_config|trust_remote_code"
)
# A convolution's or pooling's number, as in Qwen3.5 and Gemma 4.
_KERNEL_SIZE = re.compile(r"\w*kernel_(size|dim)")
# A path in old tokenizer files that nothing opens, and the file name of the generation settings' own record.
_HARMLESS = frozenset({"special_tokens_map_file", "_from_model_config"})
# That of a cache names a class of transformers, and is text like any other: Gemma 3's is "hybrid".
_IMPLEMENTATION = re.compile(r"(?!cache_)_?\w*_implementation(_internal)?")
_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")
# A repository, perhaps with a revision; a path out of the folder; an address; a class of another repository.
_ELSEWHERE = re.compile(r"[\w.-]+/[\w.-]+([@:][\w.:@/-]+)?|[/~\\].*|[A-Za-z]:[\\/].*|.*\.\.[/\\].*|\w+://.*|\S+--\S+")
# Fields that hold tokens and templates, which may look like any of these.
_TEXTS = re.compile(r"content|chat_template|template|\w*_tokens?|\d+")
# The only names that a base may bear: they are left out of what is published.
ORIGINS = frozenset({"_name_or_path", "name_or_path"})
_CONFIGURATION, _PIPELINE = "configuration_mmtok", "pipeline"
_FROM_HERE = re.compile(rf"^( *)from (?:mmtok\.hub\.|(?={_CONFIGURATION}\b))(\w+) import", re.MULTILINE)
# As transformers finds the files that a file needs.
_RELATIVE = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)


def shown(text: object) -> str:
    """A text from outside as one printable line: escape codes, line breaks and invisible characters are escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def listed(names: Iterable[str]) -> str:
    """The first four of some names from outside, and how many more there are."""
    first, *rest = [shown(name) for name in names]
    return ", ".join([first, *rest[:3]]) + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")


def leads_away(name: str, content: Any, *, allowed: Iterable[str] = ()) -> list[str]:
    """The fields of a JSON file that lead out of the repository, each as `field is value`, but for `allowed` names."""
    if name in _TABLES:
        return []
    return [f"{field} is {value}" for field, value in _search("", content, {*allowed, *_HARMLESS})]


def _search(path: str, content: Any, allowed: set[str]) -> Iterator[tuple[str, str]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            at, empty = f"{path}.{key}" if path else str(key), value is None or value in ("", [], {}, False)
            if key in allowed or empty:
                continue
            if _KERNEL_SIZE.fullmatch(key) and type(value) is int:
                continue
            if _LEADS_AWAY.fullmatch(key) or (_IMPLEMENTATION.fullmatch(key) and value not in _IMPLEMENTATIONS):
                yield shown(at), shown(repr(value)[:80])
            elif not (isinstance(value, str) and _TEXTS.fullmatch(key)):
                yield from _search(at, value, allowed)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            if not (isinstance(value, str) and _TEXTS.fullmatch(path.rpartition(".")[2])):
                yield from _search(f"{path}.{number}", value, allowed)
    elif isinstance(content, str) and _ELSEWHERE.fullmatch(content):
        yield shown(path), shown(repr(content)[:80])


def without_origins(content: Any) -> Any:
    """A JSON value without the fields that name where it came from: `from_config` would load code from there."""
    if isinstance(content, dict):
        return {key: without_origins(value) for key, value in content.items() if key not in ORIGINS}
    return [without_origins(value) for value in content] if isinstance(content, list) else content


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object that a file holds; a ValueError with the file's name where it holds none."""
    if len(content) > MOST_JSON_BYTES:
        raise ValueError(f"{shown(name)} has {len(content)} bytes: a JSON file has at most {MOST_JSON_BYTES}.")
    try:
        read = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(name)} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{shown(name)} holds a {type(read).__name__}: a JSON object is needed.")
    return read


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; a ValueError where the file holds none."""
    return parse_json(path.read_bytes(), str(path))


def as_json(content: Mapping[str, Any]) -> str:
    """JSON with two spaces of indentation and lists of numbers on one line, so that a person can read it."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # A text in JSON never holds a line break, so that only lists match.
    return re.sub(r"\[\n\s+([-+\d.eE,\s]+?)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def weight_names(weight_map: Any, name: str) -> tuple[str, ...]:
    """The files that the `weight_map` of an index (`name`) names, sorted; a ValueError where one may not be read."""
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(
            f"{shown(name)} has the weight_map {shown(repr(weight_map)[:60])}: give tensor and file names."
        )
    for file in weight_map.values():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise ValueError(
                f"{shown(name)} names the file {shown(repr(file)[:80])}: only safetensors files beside the index are "
                "taken over."
            )
    return tuple(sorted(set(weight_map.values())))


def is_known_file(path: str, code: Iterable[str], weights: Iterable[str]) -> bool:
    """Whether a repository of this project may hold a file: its code, its weights, settings, card and licence."""
    settings = (CONFIG_FILE, *SETTING_FILES) if weights else ()
    return path in {*_FOR_READERS, *settings, *code, *weights}


def plain_file(folder: Path, name: str) -> Path | None:
    """The file behind a name in a folder, None without one; a ValueError for what is no regular file.

    A link may lead to a file of the folder, and from a snapshot of the Hub's cache to a blob of the same repository.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    root, real = folder.resolve(), path.resolve()
    blobs = root.parent.parent / "blobs"
    inside = real.is_relative_to(root) or (root.parent.name == "snapshots" and real.is_relative_to(blobs))
    if not inside:
        raise ValueError(
            f"{shown(path)} is a link to {shown(real)}, outside of {shown(folder)}: put the file itself there."
        )
    if not real.is_file():
        raise ValueError(f"{shown(path)} is not a regular file: put a file there, or remove it.")
    return real


def files_inside(folder: Path, problems: list[str] | None = None) -> dict[str, Path]:
    """Every file of a folder by its path in a repository; what git and the Hub's client keep there is left out.

    Links are refused, but for those of a snapshot in the Hub's cache, and so is what is no regular file: `problems`
    takes the sentences, without it the first is a ValueError.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(_OF_TOOLS) or (path.is_dir() and not path.is_symlink()):
            continue
        try:
            file = plain_file(folder, name)
            if file is None or (path.is_symlink() and folder.resolve().parent.name != "snapshots"):
                raise ValueError(f"{shown(name)} is a link: put the file itself there.")
            files[name] = file
        except ValueError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return files


def published_code(model_type: str) -> dict[str, bytes]:
    """The code files of a repository of one model type, stock ("llava") or pruning ("mmtok_llava"), by name.

    These are the configuration, the modeling file of the family, pipeline and handler, and what they import.

    Raises:
        ValueError: no family has this model type.
        FileNotFoundError: a module is not installed as a source file.
    """
    entries = (_CONFIGURATION, family_of(model_type).module, _PIPELINE)
    handler = {HANDLER_FILE: _text(HANDLER_FILE.removesuffix(".py")).encode()}
    return _flat(entries, entries) | handler


def generate_code() -> dict[str, bytes]:
    """The code files of a `custom_generate` repository by path: those of every family."""
    entry = GENERATE_FILE.removesuffix(".py")
    files = _flat((entry, _CONFIGURATION, *(family.module for family in FAMILIES.values())), (entry,))
    return {f"{GENERATE_FOLDER}/{name}": content for name, content in files.items()}


def generate_files() -> dict[str, bytes]:
    """Every file of a `custom_generate` repository but its card: `generate_code`, and what it requires."""
    return {**generate_code(), REQUIREMENTS_FILE: REQUIREMENTS.encode()}


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
