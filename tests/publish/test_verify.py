"""What `verify` finds in staged folders and published repos: changed code, other classes, pickles, other weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import HubDouble
from published_models import BASE, TARGET, hub_for_this_process, upload_folder
from small_checkpoints import make_llava_checkpoint

import hub_upload
from mmtok.publish import PublishError, published_sources, stage, verify


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava_checkpoint(tmp_path_factory.mktemp("base") / "small-llava")


@pytest.fixture(scope="module")
def staged_once(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage(base, tmp_path_factory.mktemp("staged") / "model", check=False, link_weights=False).path


@pytest.fixture
def staged(staged_once: Path, tmp_path: Path) -> Path:
    """A staged folder to change."""
    return Path(shutil.copytree(staged_once, tmp_path / "model"))


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as serving:
        upload_folder(serving, BASE, base)
        yield serving


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_staged_folder_is_as_released(staged: Path) -> None:
    found = verify(staged)
    assert found.ok, found.problems
    assert found.code_is_released
    assert {file.name for file in found.code} == set(published_sources("llava"))
    assert found.pruning_options["vision_token_budget"] == 64
    assert list(found.weights) == ["model.safetensors"]
    assert found.describe().endswith("The remote code is the code of mmtok 0.1.0.")


def test_one_changed_byte_of_code_is_found(staged: Path) -> None:
    source = staged / "coverage.py"
    source.write_bytes(source.read_bytes() + b"#")
    found = verify(staged)
    assert found.problems == ("coverage.py is not the released file.",)
    assert found.describe().endswith("The remote code is NOT the code of mmtok 0.1.0.")


def test_a_missing_file_is_found(staged: Path) -> None:
    (staged / "prompt.py").unlink()
    assert verify(staged).problems == ("prompt.py is missing.",)


def test_a_handler_may_be_missing_but_not_another(staged: Path) -> None:
    (staged / "handler.py").write_text("pass")
    assert verify(staged).problems == ("handler.py is not the released file.",)
    (staged / "handler.py").unlink()
    assert verify(staged).ok


def test_further_code_is_listed(staged: Path) -> None:
    (staged / "serve.py").write_text("pass")
    found = verify(staged)
    assert found.ok
    assert found.other_code == ("serve.py",)


@pytest.mark.parametrize(
    "auto_map",
    [
        {"AutoConfig": "evil/repo--configuration_mmtok.MMTokLlavaConfig"},
        {"AutoConfig": "handler.MMTokLlavaConfig"},
        None,
    ],
)
def test_a_configuration_that_leads_to_other_code_is_found(staged: Path, auto_map: dict[str, str] | None) -> None:
    change_config(staged, auto_map=auto_map)
    assert verify(staged).problems == ("auto_map in config.json names other code than the released classes.",)


def test_a_stock_checkpoint_is_none_of_ours(base: Path) -> None:
    problems = verify(base).problems
    assert "config.json has the model_type 'llava', which is none of mmtok's." in problems
    assert "modeling_mmtok_llava.py is missing." in problems


def test_pickles_are_found(staged: Path) -> None:
    (staged / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin may be a pickle" in verify(staged).problems[0]


def test_a_damaged_configuration_is_found(staged: Path) -> None:
    (staged / "config.json").write_text("[]")
    assert "config.json is no JSON object." in verify(staged).problems


def test_the_weights_of_a_repo_are_held_against_the_base(hub: HubDouble, staged: Path) -> None:
    commit = hub.store.repository(BASE).branches["main"]
    card = f"---\nbase_model: {BASE}\nbase_model_revision: {commit}\n---\n# A card of somebody's own\n"
    (staged / "README.md").write_text(card)
    upload_folder(hub, TARGET, staged)
    found = verify(TARGET)
    assert found.ok, found.problems
    assert found.commit == hub.store.repository(TARGET).branches["main"]
    assert found.origin == f"They are the blobs of {BASE} at {commit}."
    hub.store.seed(TARGET, {"model.safetensors": b"other weights"})
    assert verify(TARGET).problems == (f"model.safetensors: not the blob of {BASE} at {commit}.",)
    assert verify(TARGET, revision=found.commit).ok


def test_other_weights_than_those_of_a_base_without_a_commit_are_only_mentioned(hub: HubDouble, staged: Path) -> None:
    (staged / "README.md").write_text(f"---\nbase_model: {BASE}\n---\n")
    upload_folder(hub, TARGET, staged)
    assert verify(TARGET).origin == f"They are the blobs of {BASE} at main."
    hub.store.seed(TARGET, {"model.safetensors": b"fine-tuned weights"})
    found = verify(TARGET)
    assert found.ok
    assert found.origin == f"They are not the blobs of {BASE} at main."


def test_only_small_files_are_downloaded(hub: HubDouble, staged: Path) -> None:
    upload_folder(hub, TARGET, staged)
    hub.arm()
    verify(TARGET)
    assert not any(request.path.endswith("model.safetensors") or "/cdn/" in request.path for request in hub.log)


def test_a_card_without_a_base_leaves_the_origin_open(hub: HubDouble, staged: Path) -> None:
    upload_folder(hub, TARGET, staged)
    assert verify(TARGET).origin == "The card names no base model, so their origin is not known."


@pytest.mark.parametrize(
    ("metadata", "origin"),
    [
        ("base_model: gpt2", "does not know the repository .* was not compared"),
        ("base_model: [a/b, c/d]", r"names \['a/b', 'c/d'\] as the base model, so their origin is not known"),
        ("base_model: ../x", r"names '../x' as the base model, so their origin is not known"),
        (f"base_model: {BASE}\nbase_model_revision: a..b", "'a..b' is no name for a revision"),
        ("base_model: [", "names no base model"),
        ("- base_model", "names no base model"),
    ],
)
def test_a_card_of_somebodys_own_is_reported_on(hub: HubDouble, staged: Path, metadata: str, origin: str) -> None:
    (staged / "README.md").write_text(f"---\n{metadata}\n---\n# Mine\n")
    upload_folder(hub, TARGET, staged)
    found = verify(TARGET)
    assert found.ok, found.problems
    assert re.search(origin, found.origin)


def test_a_base_without_an_organisation_is_compared(hub: HubDouble, base: Path, staged: Path) -> None:
    upload_folder(hub, "gpt2", base)
    (staged / "README.md").write_text("---\nbase_model: gpt2\n---\n")
    upload_folder(hub, TARGET, staged)
    assert verify(TARGET).origin == "They are the blobs of gpt2 at main."


def test_what_cannot_be_read_is_an_error(hub: HubDouble, staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PublishError, match="does not know the repository"):
        verify("org/absent")
    upload_folder(hub, TARGET, staged)
    with pytest.raises(PublishError, match="404"):
        verify(TARGET, revision="v9")
    with pytest.raises(ValueError, match="only a Hub id has revisions"):
        verify(staged, revision="main")
    with pytest.raises(ValueError, match="ORGANISATION/NAME"):
        verify("../elsewhere")
    assert hub_upload.main(["verify", "org/absent"]) == 1
    assert "hub_upload.py verify: The Hub does not know the repository" in capsys.readouterr().err


def test_findings_as_json(staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hub_upload.main(["verify", str(staged), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["pruning_options"]["text_temperature_unit"] == "cosine"
