"""Stages small checkpoints in both key layouts: `python -m compat.stage FOLDER FAMILY...`, for check.py."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from chat_checkpoints import make_chat_checkpoint  # noqa: E402
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint  # noqa: E402

from mmtok.publish import stage  # noqa: E402

MAKERS = {
    "llava": make_llava_checkpoint,
    "llava-next": make_llava_next_checkpoint,
    "llava-onevision": partial(make_chat_checkpoint, kind="llava_onevision"),
}


def main(folder: Path, families: list[str]) -> None:
    """Writes request.json, which maps names to staged folders."""
    staged = {}
    for family in families:
        for layout in ("llava-hf", "new"):
            place = folder / f"{family}-{layout}"
            shutil.rmtree(place, ignore_errors=True)
            base = MAKERS[family](place / "base", layout=layout)
            staged[f"{family}, {layout} layout"] = str(stage(base, place / f"{family}-{layout}-mmtok").path)
    (folder / "request.json").write_text(json.dumps(staged), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
