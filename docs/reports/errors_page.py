"""Makes every mistake of the table and writes what the errors say.

`PYTHONPATH=.:tests/support python docs/reports/errors_page.py` writes `docs/reports/errors.md`.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from misuse_cases import GROUPS, Workshop, family_name
from model_cases import FAMILIES

PAGE = Path(__file__).resolve().parent / "errors.md"


def render(workshops: dict[str, Workshop]) -> str:
    """The page, with what each mistake really answers."""
    lines = [
        "# What goes wrong, and what the error says",
        "",
        "Written by `PYTHONPATH=.:tests/support python docs/reports/errors_page.py`. Every row is a test",
        "(`tests/host/test_misuse.py`), which also checks that the model stays as it was and that the next valid",
        "call gives what it gave before.",
    ]
    for group, cases in GROUPS.items():
        shop = workshops[family_name(cases)]
        lines += ["", f"## {group}", "", "| Mistake | Error | Message |", "|---|---|---|"]
        for case in cases:
            try:
                case.do(shop)
            except case.error as error:
                said = re.sub(rf"{re.escape(str(shop.folder))}(/tmp\w+/copy)?", "FOLDER", " ".join(str(error).split()))
                said = said.replace("|", "\\|")
                lines.append(f"| {case.what} | {type(error).__name__} | {said[:300]} |")
            else:
                raise AssertionError(f"{case.what} raised nothing")
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shops = {}
        for name, family in FAMILIES.items():
            folder = Path(scratch) / name
            folder.mkdir()
            shops[name] = Workshop(family, folder)
        PAGE.write_text(render(shops), encoding="utf-8")


if __name__ == "__main__":
    main()
