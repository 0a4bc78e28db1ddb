"""The layers of docs/design.md, held against the imports: downwards only, no front end imports another, no circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHOD = {
    "blockwise_greedy", "coverage", "devices", "fused_greedy", "greedy", "images", "objective", "options", "prompt",
    "question", "selection",
}  # fmt: skip
HOST = {
    "families", "generate", "generation", "grids", "handler", "pipeline", "prune", "pruned_model", "releases",
    "tokenizer_source", *(path.stem for path in (ROOT / "mmtok" / "hub").glob("modeling_mmtok_*.py")),
}  # fmt: skip
FRONT_ENDS = ("apps", "cli", "evaluation", "publish", "vllm", "tiny")
# The front ends that each may import.
USES = {
    "cli": {"apps", "evaluation", "publish", "tiny"},
    "apps": {"evaluation", "publish", "tiny"},
    "evaluation": {"publish", "tiny"},
    "publish": set(),
    "vllm": set(),
    "tiny": set(),
}


def modules() -> dict[str, Path]:
    paths = [*(ROOT / "mmtok").rglob("*.py"), *ROOT.glob("*_mmtok*.py")]
    return {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in paths
    }


def imports(name: str, path: Path) -> set[str]:
    """Absolute names of the modules that a module imports, also inside functions; not those for type checkers alone."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


MODULES = modules()
IMPORTS = {name: imports(name, path) for name, path in MODULES.items()}


def test_every_published_module_has_a_layer() -> None:
    published = {path.stem for path in (ROOT / "mmtok" / "hub").glob("*.py")} - {"__init__"}
    assert published == METHOD | HOST
    assert not METHOD & HOST


@pytest.mark.parametrize("name", sorted(METHOD))
def test_the_method_imports_neither_transformers_nor_the_host(name: str) -> None:
    found = IMPORTS[f"mmtok.hub.{name}"]
    assert not {each for each in found if each.partition(".")[0] == "transformers"}
    assert not {each for each in found if each.startswith("mmtok.hub.") and each.split(".")[2] in HOST}


@pytest.mark.parametrize("name", sorted(METHOD | HOST))
def test_published_modules_import_no_front_end(name: str) -> None:
    inside = {each for each in IMPORTS[f"mmtok.hub.{name}"] if each.startswith("mmtok.")}
    assert all(each.startswith("mmtok.hub") for each in inside)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_front_ends_use_only_what_they_may(front_end: str) -> None:
    found = {
        each.split(".")[1]
        for name, targets in IMPORTS.items()
        if name.startswith(f"mmtok.{front_end}") and not name.endswith("__main__")
        for each in targets
        if each.startswith("mmtok.") and each.split(".")[1] in FRONT_ENDS
    }
    assert found - {front_end} <= USES[front_end]


def test_there_is_no_circle() -> None:
    graph = {
        name: {each for each in targets if each in MODULES and each != name and MODULES[each].name != "__init__.py"}
        for name, targets in IMPORTS.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_no_module_reaches_into_private_parts_of_a_model() -> None:
    outside = [path for name, path in MODULES.items() if not name.startswith("mmtok.hub.")]
    outside += (ROOT / "benchmarks").rglob("*.py")
    for path in outside:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "model":
                assert not node.attr.startswith("_") or node.attr.startswith("__"), f"{path}: model.{node.attr}"
