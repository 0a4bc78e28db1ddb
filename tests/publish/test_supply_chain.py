"""What `trust_remote_code` runs: few imports, no network, no files, no code from data."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from mmtok.hub.families import FAMILIES
from mmtok.publish.clean_process import HIDDEN
from mmtok.publish.repository import HANDLER_FILE, generate_code, published_code

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
STANDARD_LIBRARY = {
    "__future__",
    "base64",
    "binascii",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "difflib",
    "functools",
    "heapq",
    "importlib",
    "inspect",
    "itertools",
    "io",
    "logging",
    "math",
    "numbers",
    "re",
    "threading",
    "typing",
    "unicodedata",
    "warnings",
}
ALLOWED = {"torch", "transformers", "tokenizers", *STANDARD_LIBRARY}
# The handler, which no model imports, decodes images by running itself as a program.
ALLOWED_TO_HANDLER = {"PIL", "av", "json", "resource", "subprocess", "sys"}
OWN = set(HIDDEN)
# Every file that a repository of any family gets, or that of custom_generate.
SOURCES = {name: source for model_type in FAMILIES for name, source in published_code(model_type).items()}
SOURCES |= {path.partition("/")[2]: source for path, source in generate_code().items()}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "open", "__import__", "breakpoint", "input", "import_module"}
FORBIDDEN_ATTRIBUTES = {
    "system",
    "popen",
    "load",
    "save",
    "hub",
    "load_state_dict_from_url",
    "import_module",
    "environ",
}


def tree_of(name: str) -> ast.Module:
    return ast.parse(SOURCES[name])


def parents_of(tree: ast.Module) -> dict[ast.AST, ast.AST]:
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def is_guarded(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether an import stands where its failure, or the lack of its package, is expected."""
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and "available" in ast.unparse(node.test)):
            return True
    return False


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_published_code_imports_torch_transformers_and_itself(name: str) -> None:
    tree = tree_of(name)
    parents = parents_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages = {str(node.module).partition(".")[0]}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"{name} imports from a parent package"
            assert f"{node.module}.py" in SOURCES, f"{name} imports .{node.module}, which is not published"
            continue
        else:
            continue
        strangers = packages - ALLOWED - (ALLOWED_TO_HANDLER if name == HANDLER_FILE else set())
        if strangers and is_guarded(node, parents):
            strangers -= OWN | {"triton"}
        assert not strangers, f"{name} imports {strangers}"


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_modeling_file_names_every_other_file(model_type: str) -> None:
    # transformers before 5.10 copies no file into its cache of remote code that this one does not name itself.
    files, modeling = published_code(model_type), f"{FAMILIES[model_type].module}.py"
    tree = ast.parse(files[modeling])
    named = {f"{node.module}.py" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
    assert named == set(files) - {modeling, HANDLER_FILE}


def test_the_handler_needs_no_file_beside_it() -> None:
    # Inference Endpoints load it as a module of its own, where a relative import has no package.
    assert not [node for node in ast.walk(tree_of(HANDLER_FILE)) if isinstance(node, ast.ImportFrom) and node.level]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_published_code_runs_no_data_and_touches_no_file(name: str) -> None:
    for node in ast.walk(tree_of(name)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            if ast.unparse(node).startswith("import_module(here if find_spec(here)"):  # a name of the table beside it
                assert name == "families.py"
                continue
            assert node.func.id not in FORBIDDEN_CALLS, f"{name}, line {node.lineno}: {node.func.id}()"
        elif isinstance(node.func, ast.Attribute):
            if ast.unparse(node.func) == "tl.load":  # Triton's, of a tensor's entries
                continue
            assert node.func.attr not in FORBIDDEN_ATTRIBUTES, f"{name}, line {node.lineno}: .{node.func.attr}()"


def test_the_check_sees_what_it_forbids() -> None:
    tree = ast.parse("try:\n    import socket\nexcept ImportError:\n    import pickle\nopen('x')")
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert [is_guarded(node, parents_of(tree)) for node in imported] == [True, True]
    assert not ALLOWED & {"socket", "pickle", "os", "subprocess", "pathlib", "urllib", "requests"}
    assert ALLOWED - {"torch", "transformers", "tokenizers"} <= sys.stdlib_module_names


def test_workflows_pin_their_actions_and_ask_for_little() -> None:
    commits: dict[str, set[str]] = {}
    assert {path.stem for path in WORKFLOWS} == {"compat", "newest", "release", "tests"}
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        used = re.findall(r"uses:\s*(.+)", text)
        assert used
        for action in used:
            pinned = re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
            assert pinned, f"{path.name}: {action} names no commit with its release behind it"
            commits.setdefault(action.partition("@")[0], set()).add(action)
        assert re.search(r"^permissions:\n  contents: read$", text, re.MULTILINE), f"{path.name} asks for too much"
        assert "pull_request_target" not in text
    assert {len(pins) for pins in commits.values()} == {1}, "an action is pinned to two commits"


def test_security_page_says_how_to_report_and_verify() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "mmtok verify" in text
    assert "trust_remote_code" in text
