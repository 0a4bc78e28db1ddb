"""Counts the size of the project: `python -m benchmarks.counts` prints it beside the counts of results/counts.json.

`--root` counts another state of the project, such as an unpacked `git archive COMMIT`; `--save NAME` writes the counts
into the results file under a name. Nothing here is a limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "counts.json"


def lines(paths: Iterable[Path]) -> int:
    """Lines of all files together."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def until_greedy(model: Any, root: Path, **inputs: Any) -> set[CodeType]:
    """The functions of files below `root` that one `generate` enters, up to the greedy loop and with it.

    Raises:
        RuntimeError: no function of `greedy.py` whose name ends in "_greedy" was called.
    """
    entered: list[CodeType] = []

    def is_loop(code: CodeType) -> bool:
        return Path(code.co_filename).name == "greedy.py" and code.co_name.endswith("_greedy")

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        own = path.is_relative_to(root) and not any(part.startswith(".venv") for part in path.parts)
        if event == "call" and own and frame.f_code.co_name[0] != "<" and not (entered and is_loop(entered[-1])):
            entered.append(frame.f_code)

    sys.setprofile(note)
    try:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    finally:
        sys.setprofile(None)
    if not entered or not is_loop(entered[-1]):
        raise RuntimeError("generate called no function of greedy.py whose name ends in _greedy: name the loop here.")
    return set(entered)


def counts(root: Path = ROOT) -> dict[str, int]:
    """Every count, by what it is of; `root` has to be the folder that `mmtok` is imported from."""
    from PIL import Image
    from transformers import AutoProcessor

    from mmtok import MMTokLlavaForConditionalGeneration, PruningOptions
    from mmtok.publish import stage
    from mmtok.tiny import checkpoint_path

    modeling = [*root.glob("*_mmtok*.py")]
    published = [*modeling, *(path for path in root.glob("mmtok/hub/*.py") if path.name != "__init__.py")]
    product = [*modeling, root / "hub_upload.py", *root.glob("mmtok/**/*.py")]
    with TemporaryDirectory() as scratch:
        accepted = [*stage(checkpoint_path(), Path(scratch) / "staged", check=False).path.glob("*.py")]
        model = MMTokLlavaForConditionalGeneration.from_pretrained(Path(scratch) / "staged").eval()
    processor = AutoProcessor.from_pretrained(checkpoint_path())
    prompt = {"images": Image.new("RGB", (144, 144), "red"), "text": "USER: <image>\nIs there a dog? ASSISTANT:"}
    entered = until_greedy(model, root, **processor(**prompt, return_tensors="pt"), vision_token_budget=4)
    return {
        "files that a user of one LLaVA accepts": len(accepted),
        "published files": len(published),
        "published lines": lines(published),
        "functions of ours from generate to the greedy loop": len(entered),
        "files of ours from generate to the greedy loop": len({code.co_filename for code in entered}),
        "product modules": len(product),
        "product lines": lines(product),
        "fields of PruningOptions": len(fields(PruningOptions)),
        "benchmarks lines": lines(root.glob("benchmarks/**/*.py")),
        "compat lines": lines([*root.glob("compat/**/*.py"), *root.glob("noxfile.py")]),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the state of the project to count")
    parser.add_argument("--save", metavar="NAME", help="write the counts into the results file under this name")
    options = parser.parse_args()
    sys.path.insert(0, str(options.root.resolve()))
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found = counts(options.root.resolve())
    for name, count in found.items():
        print(f"{name}: {count:,}", *(f"({before}: {each[name]:,})" for before, each in known.items()))
    if options.save:
        RESULTS.write_text(json.dumps({**known, options.save: found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
