"""The Hub's test double, driven by plain huggingface_hub calls: what it stores, serves, refuses and forgets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hub_double import TOKEN, Fault, HubDouble
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubDouble().serving() as serving:
        yield serving


@pytest.fixture
def api(hub: HubDouble) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def test_commit_tag_and_download_give_the_bytes_back(hub: HubDouble, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("org/model")
    api.create_repo("org/model", exist_ok=True)
    head = api.model_info("org/model").sha
    commit = api.create_commit(
        "org/model",
        [add("config.json", b"{}"), add("model.safetensors", WEIGHTS)],
        commit_message="Add",
        parent_commit=head,
    )
    api.create_tag("org/model", tag="v1", revision=commit.oid)
    folder = Path(snapshot_download("org/model", revision="v1", endpoint=hub.url, cache_dir=tmp_path))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == b"{}"
    assert hub.tree("org/model")["model.safetensors"][1] is True
    assert not any(request.authorized for request in hub.log if request.path.startswith("/cdn"))
    kept = hf_hub_download("org/model", "config.json", revision="v1", cache_dir=tmp_path, local_files_only=True)
    assert Path(kept).read_bytes() == b"{}"
    with pytest.raises(EntryNotFoundError, match="Entry Not Found"):
        hf_hub_download("org/model", "absent.json", endpoint=hub.url, cache_dir=tmp_path)


def test_a_stale_parent_changes_nothing(hub: HubDouble, api: HfApi) -> None:
    api.create_repo("org/model")
    head = api.model_info("org/model").sha
    hub.store.seed("org/model", {"a.txt": b"somebody else"})
    before = hub.tree("org/model")
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        api.create_commit("org/model", [add("b.txt", b"b")], commit_message="Add", parent_commit=head)
    assert hub.tree("org/model") == before


def test_weights_are_copied_between_repositories_without_their_bytes(hub: HubDouble, api: HfApi) -> None:
    revision = hub.store.seed("base/model", {"model.safetensors": WEIGHTS})
    api.create_repo("org/model")
    hub.arm()
    copy = CommitOperationCopy("model.safetensors", "model.safetensors", revision, "base/model", "model")
    api.create_commit("org/model", [copy, add("config.json", b"{}")], commit_message="Copy")
    assert hub.tree("org/model")["model.safetensors"] == hub.tree("base/model")["model.safetensors"]
    assert hub.bytes_received() < len(WEIGHTS)


def test_a_blob_of_another_repository_needs_to_be_duplicated_first(hub: HubDouble, api: HfApi) -> None:
    revision = hub.store.seed("base/model", {"model.safetensors": WEIGHTS})
    api.create_repo("org/model")
    hub.refuse_duplicates = True
    copy = CommitOperationCopy("model.safetensors", "model.safetensors", revision, "base/model", "model")
    with pytest.raises(HfHubHTTPError, match="storage regions"):
        api.create_commit("org/model", [copy], commit_message="Copy")
    assert "model.safetensors" not in hub.tree("org/model")


def test_a_pull_request_leaves_main_alone(hub: HubDouble, api: HfApi) -> None:
    api.create_repo("org/model")
    before = hub.tree("org/model")
    commit = api.create_commit("org/model", [add("a.txt", b"a")], commit_message="Ask", create_pr=True)
    assert commit.pr_revision == "refs/pr/1"
    assert hub.tree("org/model") == before
    assert "a.txt" in hub.tree("org/model", "refs/pr/1")


def test_headers_of_safetensors_are_read_by_range(hub: HubDouble, api: HfApi) -> None:
    import torch
    from safetensors.torch import save

    content = save({"weight": torch.zeros(64, 1024), "bias": torch.zeros(3)})
    hub.store.seed("base/model", {"model.safetensors": content})
    hub.arm()
    metadata = api.get_safetensors_metadata("base/model")
    assert metadata.files_metadata["model.safetensors"].tensors["weight"].shape == [64, 1024]


def test_changes_need_the_token_and_private_repositories_too(hub: HubDouble, api: HfApi) -> None:
    api.create_repo("org/model", private=True)
    stranger = HfApi(endpoint=hub.url, token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        stranger.model_info("org/model")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.url, token=False).create_repo("org/other")


def test_faults_strike_the_request_they_name_and_no_other(hub: HubDouble, api: HfApi) -> None:
    hub.store.seed("org/model", {"a.txt": b"a"})
    hub.arm(Fault(2, 412), Fault(3, "drop"))
    api.model_info("org/model")
    with pytest.raises(HfHubHTTPError, match="injected 412"):
        api.model_info("org/model")
    with pytest.raises(httpx2.RemoteProtocolError, match="peer closed connection"):
        api.model_info("org/model")
    api.model_info("org/model")
    hub.arm(Fault(1, "drop", served=True, only="/tag/"))
    with pytest.raises(httpx2.RemoteProtocolError, match="peer closed connection"):
        api.create_tag("org/model", tag="v1")
    assert "v1" in hub.store.repository("org/model").tags


def test_the_double_serves_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    program = [
        sys.executable,
        str(Path(__file__).parents[1].joinpath("support", "hub_double.py")),
        "--repo",
        f"org/model={tmp_path}",
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert "config.json" in HfApi(endpoint=url).list_repo_files("org/model")
        finally:
            server.terminate()
