"""The messages that docs/troubleshooting.md quotes are those of this code and of the installed transformers."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import transformers
from model_cases import CACHE

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
THEIRS = ("dynamic_module_utils.py", "processing_utils.py", "generation/utils.py", "utils/generic.py")


def quoted_messages() -> list[str]:
    """Code in the first column of the tables that begins a sentence: several words, no call."""
    symptoms = re.findall(r"^\| (.+?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    spans = [span for symptom in symptoms for span in re.findall(r"`([^`]+)`", symptom)]
    return [span for span in spans if span.count(" ") >= 2 and not span.startswith("mmtok ")]


@cache
def texts() -> str:
    """The strings of the sources, docstrings left out, and the page of errors; what is filled in is "…"."""
    inside = Path(transformers.__file__).parent
    found = [(ROOT / "docs" / "reports" / "errors.md").read_text("utf-8")]  # itself held by tests/host/test_misuse.py
    for path in [*(ROOT / "mmtok").rglob("*.py"), *(inside / name for name in THEIRS)]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Expr):
                node.value = ast.Constant(None) if isinstance(node.value, ast.Constant) else node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found).replace("`", "")


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_exists(message: str) -> None:
    if "Use cache instead" in message and CACHE != "cache":
        pytest.skip("transformers itself says so from 5.24 on")
    fragments = re.split(r"\.\.\.|\d+|\['.*'\]|vision_token_budget(?= is not)", message)
    missing = [part for part in fragments if part.strip(" .'") and part.strip() not in texts()]
    assert not missing


def test_the_page_quotes_messages() -> None:
    assert len(quoted_messages()) >= 10
