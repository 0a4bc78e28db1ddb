"""What a push sends: a staged folder, checked, and the weights of the base that stay on the Hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

from .base import INDEX_FILE, BaseCheckpoint, open_base
from .clean_process import check_staged
from .hub_errors import HUB_ERRORS, publish_error
from .hub_names import check_repo_path
from .hub_plan import HubWeight
from .hub_repo import UNTOUCHED, HubRepo
from .meta_load import TensorHeader, check_fit
from .recipe import Recipe
from .stage import write_repository
from .weights import place_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """A checked folder and the weights that are not in it.

    Attributes:
        folder: every file, and for a base in a folder its weights too.
        base: what it was made of.
        weights: the base's weight files on the Hub; empty for a base in a folder.
        known: what the card says beyond the folder, attributes of `CardFacts`.
    """

    folder: Path
    base: BaseCheckpoint
    weights: tuple[HubWeight, ...]
    known: Mapping[str, Any]


def prepare(base: str | os.PathLike[str], recipe: Recipe, folder: Path, *, check: bool = True) -> Release:
    """Makes what `publish` sends, and checks it in a clean process.

    For a base on the Hub, code and settings are compared as `stage` compares them, and the weights by the headers of
    their files: every tensor has to find its place on a model without memory. For a folder it is the check of `stage`.

    Args:
        base: folder or Hub id of the stock checkpoint.
        recipe: options, words and card.
        folder: a new or empty folder.
        check: False leaves the check out.

    Raises:
        ValueError, CheckFailed, PublishError: as in `push`.
    """
    recipe.check_base(base)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and everything in it would be published: give a new folder.")
    log.info("Reading the base %s", base)
    local = Path(base).is_dir()
    checkpoint = _open(base, recipe.base_revision, weights=local)
    known = write_repository(checkpoint, folder, recipe)
    if local:
        place_weights(checkpoint, folder)
        if check:
            log.info("Checking weights, code and settings in a clean process")
            check_staged(folder, checkpoint)
        return Release(folder, checkpoint, (), known)
    headers = _headers(checkpoint)
    weights = _weights(checkpoint, tuple(headers))
    _take_index(checkpoint, folder)
    if check:
        log.info("Checking headers, code and settings in a clean process")
        _check_by_headers(folder, checkpoint, headers)
    return Release(folder, checkpoint, weights, known)


def _check_by_headers(folder: Path, base: BaseCheckpoint, headers: Mapping[str, Mapping[str, TensorHeader]]) -> None:
    """The check for a base whose weights are not here, by what their files say of every tensor."""
    named = {tensor: file for file, tensors in headers.items() for tensor in tensors}
    check_staged(folder, replace(base, weight_map=named), weights=False)
    check_fit(folder, {name: header for tensors in headers.values() for name, header in tensors.items()})


def download_weights(release: Release) -> dict[str, Path]:
    """Local copies of a release's weights from the Hub, by path; whole files, with a progress bar."""
    base = release.base
    assert base.repo_id is not None
    folder = _open(base.repo_id, base.commit, weights=True).folder
    return {weight.path: folder / weight.path for weight in release.weights}


def _open(base: str | os.PathLike[str], revision: str | None, *, weights: bool) -> BaseCheckpoint:
    try:
        return open_base(base, revision=revision, weights=weights)
    except HUB_ERRORS as error:
        raise publish_error(error, f"reading {base}", UNTOUCHED) from None


def _headers(base: BaseCheckpoint) -> dict[str, dict[str, TensorHeader]]:
    """Name, type and shape of every tensor on the Hub, by file; a few hundred kilobytes instead of all the weights."""
    assert base.repo_id is not None
    try:
        metadata = HfApi().get_safetensors_metadata(base.repo_id, revision=base.commit)
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise ValueError(f"{base.repo_id} has no weights in safetensors files that can be read: {error}") from None
    except HUB_ERRORS as error:
        raise publish_error(error, f"reading the weights' headers of {base.repo_id}", UNTOUCHED) from None
    return {
        check_repo_path(file): {
            name: TensorHeader(tensor.dtype, tuple(tensor.shape)) for name, tensor in header.tensors.items()
        }
        for file, header in sorted(metadata.files_metadata.items())
    }


def _weights(base: BaseCheckpoint, names: tuple[str, ...]) -> tuple[HubWeight, ...]:
    assert base.repo_id is not None
    assert base.commit is not None
    there = HubRepo(base.repo_id).files_at(base.commit)
    weights = []
    for name in names:
        file = there[name]
        if file.lfs is None:
            raise ValueError(f"{name} of {base.repo_id} is no large file of the Hub: stage and push it from a folder.")
        copyable = getattr(file, "xet_hash", None) is not None  # huggingface_hub before 1.0 does not know it
        weights.append(HubWeight(name, file.size, file.lfs.sha256, base.repo_id, base.commit, copyable))
    return tuple(weights)


def _take_index(base: BaseCheckpoint, folder: Path) -> None:
    if base.weight_map:
        (folder / INDEX_FILE).write_bytes((base.folder / INDEX_FILE).read_bytes())
