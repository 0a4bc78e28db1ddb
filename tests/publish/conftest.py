"""A small base checkpoint, its prepared release, and a Hub double that holds the base."""

from __future__ import annotations

import multiprocessing.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import HubDouble
from published_models import BASE, hub_for_this_process, upload_folder
from small_checkpoints import make_llava_checkpoint

from mmtok.publish.push import Release, prepare
from mmtok.publish.recipe import Recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava_checkpoint(tmp_path_factory.mktemp("base") / "small-llava")


@pytest.fixture(scope="module")
def release(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Prepared from the Hub's copy of the base, without the clean process."""
    with pytest.MonkeyPatch.context() as patch, hub_for_this_process(patch, tmp_path_factory.mktemp("cache")) as hub:
        upload_folder(hub, BASE, base)
        return prepare(BASE, Recipe(), tmp_path_factory.mktemp("release"), check=False)


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    """The base is on it; the same files make the same commit, so that `release` fits.

    Temporary files are the test's own: pushes to one repository take turns.
    """
    multiprocessing.util.get_temp_dir()  # a socket's path may not be as long
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as serving:
        upload_folder(serving, BASE, base)
        yield serving
