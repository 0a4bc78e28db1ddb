"""The repository for `custom_generate`: the folder, what reaches the Hub, what is refused, and how it is verified."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import HubDouble
from published_models import hub_for_this_process

from mmtok.cli.main import main
from mmtok.hub.families import FAMILIES
from mmtok.publish import CheckFailed, PublishError, generate_repo, push_generate, stage_generate, verify
from mmtok.publish.card import edited_by_hand
from mmtok.publish.clean_process import check_generate
from mmtok.publish.recipe import Destination
from mmtok.publish.repository import generate_code

REPO = "org/mmtok"
FILES = {*generate_code(), "custom_generate/requirements.txt", "README.md"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    monkeypatch.setattr(generate_repo, "check_generate", lambda folder, scratch: ())
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as serving:
        yield serving


def test_a_folder_is_checked_in_a_clean_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mmtok_generate"
    assert main(["stage-generate", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (
        set(made["files"]) == {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == FILES
    )
    assert made["checked"] == [family.stock_class for family in FAMILIES.values()]
    for path, content in generate_code().items():
        assert (out / path).read_bytes() == content
    card = (out / "README.md").read_text(encoding="utf-8")
    assert not edited_by_hand(card)
    assert "It reaches `generate` only" in card
    assert "runs without pruning, too" in card
    assert main(["stage-generate", str(out)]) == 1
    assert f"{out} is not empty" in capsys.readouterr().err
    assert main(["stage-generate", str(out), "--overwrite", "--no-check"]) == 0
    assert "Not checked." in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["mmtok_generate"]


def test_only_a_folder_of_its_own_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not a staged folder, so that it is not overwritten"):
        stage_generate(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_code_that_does_not_work_is_found(tmp_path: Path) -> None:
    out = stage_generate(tmp_path / "mmtok_generate", check=False).path
    (out / "custom_generate" / "coverage.py").unlink()
    with pytest.raises(CheckFailed, match=r"The staged code does not work: .*coverage"):
        check_generate(out, tmp_path)


def test_a_push_is_one_commit_and_verified(hub: HubDouble, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push-generate", REPO, "--tag", "v1.0", "--private"]) == 0
    told = capsys.readouterr().out
    assert f"Published {len(FILES)} files as commit" in told
    assert "Tagged as v1.0." in told
    assert told.strip().endswith("It is what mmtok 0.1.0 publishes.")
    assert {path for path in hub.files(REPO, "v1.0") if not path.startswith(".")} == FILES
    assert hub.store.repository(REPO).private
    card = hub.files(REPO)["README.md"].decode()
    assert '"custom_generate": "org/mmtok", "revision": "v1.0"' in card
    again = push_generate(Destination(REPO, tag="v1.0", private=True))
    assert again.changes == ()


def test_a_dry_run_sends_nothing(hub: HubDouble, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push-generate", REPO, "--dry-run"]) == 0
    assert "custom_generate/configuration_mmtok.py" in capsys.readouterr().out
    assert REPO not in hub.store.repositories


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "pytorch_model-00001-of-00002.bin"])
@pytest.mark.parametrize("branch", ["main", "v2"])
def test_a_repository_with_a_model_is_refused_and_stays(hub: HubDouble, file: str, branch: str) -> None:
    hub.store.seed(REPO, {file: b"{}"})
    before = hub.tree(REPO)
    with pytest.raises(
        PublishError, match=r"holds files that are not part of this release: .*; or give another repository"
    ):
        push_generate(Destination(REPO, branch=branch))
    assert hub.tree(REPO) == before
    assert set(hub.store.repository(REPO).branches) == {"main"}


def test_verify_sees_another_file_and_a_missing_one(tmp_path: Path) -> None:
    out = stage_generate(tmp_path / "mmtok_generate", check=False).path
    assert verify(out).ok
    (out / "custom_generate" / "coverage.py").write_text("# other")
    (out / "custom_generate" / "greedy.py").unlink()
    found = verify(out)
    assert found.problems == (
        "custom_generate/coverage.py is not the released file.",
        "custom_generate/greedy.py is missing.",
    )
    assert "a custom_generate repository" in found.describe()
    (out / "custom_generate" / "requirements.txt").write_text("evil\n")
    assert "custom_generate/requirements.txt is not the released file." in verify(out).problems
