"""Every mistake of the table gets its error, leaves the model as it was, and the next valid call is fine."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from misuse_cases import GROUPS, Misuse, Workshop, family_name
from model_cases import FAMILIES

from mmtok.hub.releases import NEWEST_TESTED
from mmtok.publish import stage, verify

CASES = [case for cases in GROUPS.values() for case in cases]


@pytest.fixture(scope="module")
def workshops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workshop]:
    return {name: Workshop(family, tmp_path_factory.mktemp(name)) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def answers(workshops: dict[str, Workshop]) -> dict[str, torch.Tensor]:
    return {name: shop.generate() for name, shop in workshops.items()}


def state_of(model: torch.nn.Module) -> tuple[Any, ...]:
    """Everything that a failed call could have left behind."""
    modules = dict(model.named_modules())
    hooks = {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), set(vars(module)))
        for name, module in modules.items()
    }
    weights = {name: tensor.sum().item() for name, tensor in model.state_dict().items()}
    return hooks, weights, model.config.to_dict(), model.generation_config.to_dict()


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_misuse(case: Misuse, workshops: dict[str, Workshop], answers: dict[str, torch.Tensor]) -> None:
    name = next(family_name(cases) for cases in GROUPS.values() if case in cases)
    shop = workshops[name]
    before = state_of(shop.model)
    with pytest.raises(case.error, match=re.escape(case.message)):
        case.do(shop)
    assert state_of(shop.model) == before
    assert not (shop.folder / "out").exists()
    assert torch.equal(shop.generate(), answers[name])


def test_there_are_sixty_cases() -> None:
    assert len({case.what for case in CASES}) == len(CASES) >= 60


def test_the_page_is_what_the_mistakes_answer(workshops: dict[str, Workshop]) -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "reports"
    render = runpy.run_path(str(docs / "errors_page.py"))["render"]
    written, found = (docs / "errors.md").read_text(encoding="utf-8").splitlines(), render(workshops).splitlines()
    changed = [row for row, wanted in zip(found, written, strict=True) if row != wanted]
    if transformers.__version__ != NEWEST_TESTED:  # the words of transformers differ between its releases
        changed = [row for row in changed if not row.startswith("| no weights | OSError | Error no file named ")]
    assert not changed, "run docs/reports/errors_page.py"


def test_a_disk_that_fills_up_leaves_nothing(
    workshops: dict[str, Workshop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(OSError, match="No space left on device"):
        stage(workshops["llava"].base, tmp_path / "out", link_weights=False, check=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_leaves_nothing(workshops: dict[str, Workshop], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises((OSError, ValueError), match="file"):
        stage(workshops["llava"].base, blocked / "out", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_with_spaces_and_other_letters_loads(workshops: dict[str, Workshop], tmp_path: Path) -> None:
    staged = stage(workshops["llava"].base, tmp_path / "mein Modell ü 模型", check=False)
    model = FAMILIES["llava"].model_class.from_pretrained(staged.path)
    assert model.config.vision_token_budget == 64


def test_code_that_was_tampered_with_is_found(workshops: dict[str, Workshop]) -> None:
    shop = workshops["llava"]
    assert verify(shop.staged).ok
    tampered = shop.broken("coverage.py", lambda path: path.write_text("import os\n", encoding="utf-8"))
    missing = shop.broken("coverage.py", Path.unlink)
    for folder in (tampered, missing):
        report = verify(folder)
        assert not report.ok
        assert any("coverage.py" in problem for problem in report.problems)
