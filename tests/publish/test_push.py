"""Pushing to a Hub on loopback: what reaches the branch, what stays, and what is refused before anything is sent."""

from __future__ import annotations

import copy
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_double import TOKEN, Fault, HubDouble
from huggingface_hub import HfApi
from published_models import BASE, TARGET
from small_checkpoints import make_llava_checkpoint

import hub_upload
from mmtok.publish import PublishError, push, verify
from mmtok.publish.card import edited_by_hand
from mmtok.publish.hub import check_reference, check_repo_id
from mmtok.publish.push import Release, prepare, publish
from mmtok.publish.recipe import Destination, Recipe
from mmtok.publish.repository import files_inside

CARD = "---\nlicense: llama2\nlanguage: en\n---\n# The base\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_llava_checkpoint(tmp_path_factory.mktemp("base") / "small-llava", sharded=True)
    (folder / "README.md").write_text(CARD)
    return folder


def commits(hub: HubDouble, repo_id: str = TARGET, branch: str = "main") -> list[str]:
    """Titles from the newest commit of a branch to the oldest."""
    repository = hub.store.repository(repo_id)
    titles, commit = [], repository.commit_at(branch)
    while True:
        titles.append(commit.title)
        if commit.parent is None:
            return titles
        commit = repository.commits[commit.parent]


def test_one_commit_with_weights_copied_on_the_server(hub: HubDouble, base: Path, release: Release) -> None:
    hub.arm()
    report = publish(release, Destination(TARGET, tag="v1.0"))
    assert hub.bytes_received() < 2_000_000
    assert commits(hub) == [f"MMTok 0.1.0 on {BASE}", "initial commit"]
    files = hub.files(TARGET, "v1.0")
    for path in base.glob("model*"):
        assert files[path.name] == path.read_bytes()
    assert {"config.json", "modeling_mmtok_llava.py", "tokenizer.json", "README.md"} <= set(files)
    assert report.commit == hub.store.repository(TARGET).branches["main"]
    assert not report.uploaded
    assert report.verification is not None
    assert report.verification.ok, report.verification.describe()
    assert report.verification.origin == f"Settings and weights compared with {BASE} at {release.base.commit}."


def test_copied_and_uploaded_weights_give_the_same_tree(hub: HubDouble, base: Path, release: Release) -> None:
    publish(release, Destination(TARGET))
    copied = hub.tree(TARGET)
    del hub.store.repositories[TARGET]
    hub.refuse_duplicates = True
    hub.arm()
    report = publish(release, Destination(TARGET))
    assert report.uploaded
    assert hub.tree(TARGET) == copied
    assert commits(hub) == [f"MMTok 0.1.0 on {BASE}", "initial commit"]
    assert hub.bytes_received() > sum(path.stat().st_size for path in base.glob("*.safetensors"))


def test_a_base_in_a_folder_is_uploaded_to_the_same_tree(
    hub: HubDouble, base: Path, release: Release, tmp_path: Path
) -> None:
    publish(release, Destination(TARGET))
    from_hub = hub.tree(TARGET)
    local = prepare(base, Recipe(base_model=BASE), tmp_path / "release", check=False)
    publish(local, Destination("org/from-folder"), verify_after=False)
    from_folder = hub.tree("org/from-folder")
    assert {path for path in from_hub if from_hub[path] != from_folder.get(path)} == {"README.md"}
    assert set(from_folder) == set(from_hub)


def test_the_same_again_changes_nothing(hub: HubDouble, release: Release) -> None:
    first = publish(release, Destination(TARGET, tag="v1.0"))
    hub.arm()
    second = publish(release, Destination(TARGET, tag="v1.0"))
    assert second.commit == first.commit
    assert second.changes == ()
    assert len(commits(hub)) == 2
    assert not any("/commit/" in request.path for request in hub.log)


def test_another_configuration_sends_only_what_changed(
    hub: HubDouble, base: Path, release: Release, tmp_path: Path
) -> None:
    publish(release, Destination(TARGET))
    other = prepare(BASE, Recipe({"vision_token_budget": 8}), tmp_path / "release", check=False)
    report = publish(other, Destination(TARGET))
    assert [file.path for file in report.changes] == ["README.md", "config.json"]
    assert json.loads(hub.files(TARGET)["config.json"])["vision_token_budget"] == 8


def test_a_card_edited_by_hand_stays_until_it_may_be_overwritten(hub: HubDouble, release: Release) -> None:
    publish(release, Destination(TARGET))
    edited = hub.files(TARGET)["README.md"].replace(b"## Limits", b"## My limits")
    hub.store.seed(TARGET, {"README.md": edited})
    report = publish(release, Destination(TARGET), dry_run=True)
    assert "edited by hand and stays" in report.describe()
    publish(release, Destination(TARGET))
    assert hub.files(TARGET)["README.md"] == edited
    publish(release, Destination(TARGET, overwrite_card=True))
    assert not edited_by_hand(hub.files(TARGET)["README.md"].decode())


def test_an_untouched_card_is_replaced(hub: HubDouble, release: Release) -> None:
    publish(release, Destination(TARGET))
    publish(release, Destination(TARGET, tag="v1.0"))
    assert b'revision="v1.0"' in hub.files(TARGET)["README.md"]


def test_files_of_others_are_deleted_when_that_is_asked_for_only(hub: HubDouble, release: Release) -> None:
    theirs = {"notes.txt": b"mine", "serve.py": b"pass", "pytorch_model.bin": b"pickle", "LICENSE": b"mine"}
    hub.store.seed(TARGET, theirs)
    before = hub.tree(TARGET)
    with pytest.raises(PublishError, match=r"not part of this release: notes.txt, pytorch_model.bin, serve.py. --del"):
        publish(release, Destination(TARGET))
    assert hub.tree(TARGET) == before
    report = publish(release, Destination(TARGET, delete_others=True))
    assert not theirs.keys() & {"notes.txt", "serve.py", "pytorch_model.bin"} & hub.files(TARGET).keys()
    assert hub.files(TARGET)["LICENSE"] == b"mine"
    assert report.verification is not None
    assert report.verification.ok, report.verification.problems


def test_a_release_of_other_modules_is_replaced_whole(hub: HubDouble, release: Release) -> None:
    publish(release, Destination(TARGET))
    hub.store.seed(TARGET, {"similarity.py": b"# of an earlier release", "coverage.py": b"# of an earlier release"})
    assert not verify(TARGET).ok
    report = publish(release, Destination(TARGET, delete_others=True))
    assert [(file.path, file.action) for file in report.changes] == [
        ("coverage.py", "send"),
        ("similarity.py", "delete"),
    ]
    assert verify(TARGET).ok


def test_a_dry_run_shows_everything_and_sends_nothing(hub: HubDouble, release: Release) -> None:
    hub.arm()
    report = publish(release, Destination(TARGET, tag="v1.0"), dry_run=True)
    assert {request.method for request in hub.log} <= {"GET", "HEAD"}
    assert TARGET not in hub.store.repositories
    shown = report.describe()
    assert "copy      335kB  model-00001-of-00003.safetensors, model-00002-of-00003.safetensors" in shown
    assert len(shown.splitlines()) <= 6
    assert report.commit is None


def test_a_branch_that_moved_is_reported_and_not_overwritten(hub: HubDouble, release: Release) -> None:
    publish(release, Destination(TARGET))
    hub.store.seed(TARGET, {"config.json": b"{}"})
    hub.arm(Fault(1, "none", only="/commit/", before=lambda: hub.store.seed(TARGET, {"a.txt": b"somebody else"})))
    with pytest.raises(PublishError, match=r"branch has moved since it was read \(412\)"):
        publish(release, Destination(TARGET))
    files = hub.files(TARGET)
    assert (files["config.json"], files["a.txt"]) == (b"{}", b"somebody else")
    hub.arm()
    with pytest.raises(PublishError, match=r"not part of this release: a.txt"):
        publish(release, Destination(TARGET))
    assert hub.files(TARGET)["a.txt"] == b"somebody else"


def test_a_pull_request_holds_everything_and_main_nothing(hub: HubDouble, release: Release) -> None:
    report = publish(release, Destination(TARGET, create_pr=True))
    assert report.pull_request == f"{hub.url}/{TARGET}/discussions/1"
    assert set(hub.tree(TARGET)) == {".gitattributes"}
    assert "config.json" in hub.tree(TARGET, "refs/pr/1")
    assert report.verification is not None
    assert report.verification.ok


def test_another_branch_begins_at_main(hub: HubDouble, release: Release) -> None:
    publish(release, Destination(TARGET, branch="experiment/one"))
    assert set(hub.tree(TARGET)) == {".gitattributes"}
    assert commits(hub, branch="experiment/one") == [f"MMTok 0.1.0 on {BASE}", "initial commit"]


def test_an_occupied_tag_is_refused_before_the_checks(hub: HubDouble, release: Release) -> None:
    first = publish(release, Destination(TARGET, tag="v1.0"))
    checked: list[int] = []
    changed = replace(release, files=dict(list(release.files.items())[1:]), check=lambda: checked.append(1))
    with pytest.raises(PublishError, match=f"tag v1.0 of {TARGET} names commit {first.commit} already"):
        publish(changed, Destination(TARGET, tag="v1.0", delete_others=True))
    assert not checked
    publish(changed, Destination(TARGET, tag="v1.1", delete_others=True))
    assert checked


def test_a_tag_is_never_moved(hub: HubDouble, release: Release) -> None:
    first = publish(release, Destination(TARGET, tag="v1.0"))
    hub.store.seed(TARGET, {"config.json": b"{}"})
    before = hub.tree(TARGET)
    with pytest.raises(PublishError, match=f"tag v1.0 of {TARGET} names commit {first.commit} already"):
        publish(release, Destination(TARGET, tag="v1.0"))
    assert hub.tree(TARGET) == before


def test_private_repositories_stay_private(hub: HubDouble, release: Release) -> None:
    publish(release, Destination(TARGET, private=True))
    assert hub.store.repository(TARGET).private
    hub.store.create("org/public")
    with pytest.raises(PublishError, match="exists and is public"):
        publish(release, Destination("org/public", private=True))
    assert set(hub.tree("org/public")) == {".gitattributes"}


def test_weights_that_the_hub_cannot_copy_are_uploaded(hub: HubDouble, release: Release, caplog: Any) -> None:
    plain = {path: copy.copy(weight) for path, weight in release.weights.items()}
    for weight in plain.values():
        weight.xet_hash = None
    report = publish(replace(release, weights=plain), Destination(TARGET))
    assert report.uploaded
    assert "downloaded and sent instead" in caplog.text
    assert report.verification is not None
    assert report.verification.ok


def test_a_huggingface_hub_that_cannot_copy_uploads(
    hub: HubDouble, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["mmtok.publish.push"], "can_copy_between_repos", lambda: False)
    report = publish(release, Destination(TARGET), verify_after=False)
    assert report.uploaded
    assert hub.tree(TARGET)["model-00001-of-00003.safetensors"] == hub.tree(BASE)["model-00001-of-00003.safetensors"]


@pytest.mark.parametrize(
    "repo_id", ["model", "../x/y", "org/../etc", "/org/model", "org/model.git", "a/b/c", "org/mo del"]
)
def test_repo_ids_are_checked(repo_id: str) -> None:
    with pytest.raises(ValueError, match="ORGANISATION/NAME"):
        check_repo_id(repo_id)


@pytest.mark.parametrize("name", ["", "a..b", "-x", "/main", "x/", "x.lock", "refs/heads/main", "a b", "a\nb", "v@{1}"])
def test_branches_and_tags_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name for a tag"):
        check_reference(name, "tag")


def test_a_release_is_prepared_in_an_empty_folder_only(base: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not for the public")
    with pytest.raises(ValueError, match="is not empty, and everything in it would be published"):
        prepare(base, Recipe(), tmp_path)


def test_links_in_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inside.txt").write_text("fine")
    assert set(files_inside(folder)) == {"inside.txt"}
    (folder / "link.txt").symlink_to(folder / "inside.txt")
    with pytest.raises(ValueError, match=r"link.txt is a link: put the file itself there"):
        files_inside(folder)
    (folder / "link.txt").unlink()
    (folder / "out.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(ValueError, match=r"is a link to .*outside.txt, outside of"):
        files_inside(folder)


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (lambda: {"destination": BASE}, "is the base itself"),
        (lambda: {"destination": "no-organisation"}, "has no organisation or user"),
        (lambda: {"destination": Destination(TARGET, tag="v1", create_pr=True)}, "once the pull request is merged"),
        (lambda: {"destination": Destination(TARGET, branch="../main")}, "is not a name for a branch"),
        (lambda: {"destination": TARGET, "recipe": Recipe(base_revision="a b")}, "is not a name for a revision"),
        (lambda: {"destination": TARGET, "recipe": Recipe(base_model="org/other")}, "which is the base itself"),
        (lambda: {"destination": TARGET, "recipe": Recipe({"vision_token_budget": 0})}, "vision_token_budget is 0"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_sent(
    hub: HubDouble, request_of: Callable[[], dict[str, Any]], message: str
) -> None:
    hub.arm()
    with pytest.raises(ValueError, match=message):
        push(BASE, **request_of())
    assert hub.log == []


def test_a_base_that_does_not_fit_its_configuration_is_refused_before_anything_is_sent(
    hub: HubDouble, base: Path
) -> None:
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 48
    hub.store.seed(BASE, {"config.json": json.dumps(config).encode()})
    hub.arm()
    message = r"The base llava-hf/small-llava is at fault, .* weights do not fit its config.json .*: 6 mismatched keys"
    with pytest.raises(ValueError, match=message):
        push(BASE, TARGET)
    assert {request.method for request in hub.log} <= {"GET", "HEAD"}
    assert TARGET not in hub.store.repositories


def test_without_a_token_nothing_is_tried(hub: HubDouble, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["mmtok.publish.push"], "get_token", lambda: None)
    hub.arm()
    with pytest.raises(PublishError, match="hf auth login"):
        publish(release, Destination(TARGET))
    assert hub.log == []


@pytest.mark.parametrize("fault", [401, 403, 500, "drop"])
def test_the_token_is_in_no_message_and_no_log(
    hub: HubDouble, release: Release, fault: int | str, caplog: Any, capfd: Any
) -> None:
    caplog.set_level("DEBUG")
    hub.arm(Fault(1, fault, only="/commit/", persistent=True))
    with pytest.raises(PublishError, match="run the same command again") as raised:
        publish(release, Destination(TARGET))
    shown = "".join(traceback.format_exception(raised.value)) + caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in shown
    assert raised.value.__cause__ is None


def test_the_command_line_publishes_and_tells_failures_by_exit_code(
    hub: HubDouble, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["push", BASE, TARGET, "--tag", "v1.0", "--budget", "8"]
    assert hub_upload.main(command) == 0
    shown = capsys.readouterr().out
    assert "files as commit" in shown
    assert shown.endswith("It is what mmtok 0.1.0 publishes.\n")
    assert len(shown.splitlines()) <= 10
    assert hub_upload.main(["verify", TARGET, "--revision", "v1.0"]) == 0
    hub.store.seed(TARGET, {"prompt.py": b"import os"})
    assert hub_upload.main(["verify", TARGET]) == 1
    assert "Problem: prompt.py is not the released file." in capsys.readouterr().out
    assert hub_upload.main(["push", BASE, "no-organisation"]) == 1
    assert "give ORGANISATION/NAME" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        hub_upload.main(["push", BASE])


def test_a_moved_base_is_pinned_to_the_commit_that_was_checked(hub: HubDouble, base: Path, release: Release) -> None:
    pinned = release.base.commit
    hub.store.seed(BASE, {"model-00001-of-00003.safetensors": b"newer weights"})
    report = publish(release, Destination(TARGET))
    assert hub.files(TARGET)["model-00001-of-00003.safetensors"] != b"newer weights"
    assert report.verification is not None
    assert report.verification.origin == f"Settings and weights compared with {BASE} at {pinned}."
    assert report.verification.ok, report.verification.problems
    assert HfApi().model_info(BASE).sha != pinned
