"""Staging: a stock checkpoint becomes the folder of a complete model repository, all of it or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmtok

from .base import CARD_FILE, CONFIG_FILE, BaseCheckpoint, open_base, read_json
from .card import CardFacts, render_card
from .chat_format import question_format_of
from .clean_process import check_staged
from .config_file import as_json, published_config
from .families import PREFIX
from .published_files import published_sources
from .recipe import Recipe
from .tokenizer_files import load_processor, write_tokenizer_files
from .weights import place_weights


@dataclass(frozen=True)
class StagedModel:
    """A staged folder.

    Attributes:
        path: the folder.
        files: names of its files, sorted.
        model_class: name of the class that it loads as.
        vision_token_budget: the budget in its configuration.
        linked: whether its weights share their bytes on the disk with the base's.
        report: what the clean process found, see `check_staged`; empty when it was not asked.
    """

    path: Path
    files: tuple[str, ...]
    model_class: str
    vision_token_budget: int | float | None
    linked: bool
    report: dict[str, Any] = field(default_factory=dict)


def stage(
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    link_weights: bool = True,
    overwrite: bool = False,
    check: bool = True,
) -> StagedModel:
    """Makes a complete model repository of a stock checkpoint.

    Everything is written beside `out` and moved there at the end. A stage that fails, or is interrupted by an
    exception, leaves `out` as it was.

    Args:
        base: folder or Hub id of the stock checkpoint.
        out: the folder to make; has to be new or empty.
        recipe: options, words and card; the defaults without one.
        link_weights: hard links to the base's weight files where the file system can; False copies them.
        overwrite: replaces `out` if it is itself a staged folder.
        check: loads the result in a clean process and compares it with the base.

    Raises:
        ValueError: unusable base, `out` or recipe; nothing was written.
        CheckFailed: the result does not load, or is not the base; nothing is left behind.
    """
    recipe = recipe or Recipe()
    _refuse_base(Path(out), Path(base))
    target = checked_target(Path(out), overwrite, _is_staged)
    recipe.check_base(base)
    checkpoint = open_base(base, revision=recipe.base_revision)
    with workspace(target) as folder:
        write_repository(checkpoint, folder, recipe)
        linked = place_weights(checkpoint, folder, link=link_weights)
        report = check_staged(folder, checkpoint) if check else {}
        budget = read_json(folder / CONFIG_FILE)["vision_token_budget"]
        move(folder, target)
    files = tuple(sorted(path.name for path in target.iterdir()))
    return StagedModel(target, files, checkpoint.family.model_class, budget, linked, report)


def write_repository(base: BaseCheckpoint, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Writes everything but the weights: code, configuration, tokenizer, processor, generation files and card.

    Args:
        base: the checkpoint; its weights are not read.
        folder: an empty folder.
        recipe: options, words and card.

    Returns:
        What the card says beyond the folder and the base, attributes of `CardFacts`.

    Raises:
        ValueError: a base without a usable processor, tokenizer or chat template.
    """
    processor = load_processor(base)
    question_format = question_format_of(processor, recipe.options.get("question_format"))
    config = published_config(base, {**recipe.options, "question_format": question_format})
    write_tokenizer_files(base, processor, folder)
    for name, source in published_sources(base.config["model_type"]).items():
        shutil.copyfile(source, folder / name)
    (folder / CONFIG_FILE).write_text(as_json(config), encoding="utf-8")
    known = {
        "base_model": recipe.base_model or base.repo_id,
        "base_revision": base.commit,
        "measurements": recipe.measurements,
    }
    facts = CardFacts.of_folder(folder, release=mmtok.__version__, base_folder=base.folder, **known)
    (folder / CARD_FILE).write_text(render_card(facts), encoding="utf-8")
    return known


def _refuse_base(out: Path, base: Path) -> None:
    """Raises a ValueError for a folder that is the base, holds it or lies within it."""
    if not base.is_dir():
        return
    target, stock = out.resolve(), base.resolve()
    if target == stock or target in stock.parents:
        raise ValueError(f"{out} is the base or holds it: stage into another folder.")
    if stock in target.parents:
        raise ValueError(f"{out} lies within the base: stage into another folder.")


def _is_staged(folder: Path) -> bool:
    """Whether a folder holds a model that was staged."""
    config = folder / CONFIG_FILE
    return config.is_file() and str(read_json(config).get("model_type")).startswith(PREFIX)


def checked_target(out: Path, overwrite: bool, is_staged: Callable[[Path], bool]) -> Path:
    """The absolute path of the folder to make.

    Args:
        out: as it was given.
        overwrite: a folder with files in it may be replaced where `is_staged` says that it was staged.
        is_staged: asked of a folder with files in it.

    Raises:
        ValueError: it may not be made there.
    """
    if out.is_symlink():
        raise ValueError(f"{out} is a link: give the folder itself.")
    target = out.resolve()
    if not target.exists():
        return target
    if not target.is_dir():
        raise ValueError(f"{out} is a file: give a new folder.")
    if any(target.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} is not empty: give a new folder, or overwrite it if it is a staged one.")
        if not is_staged(target):
            raise ValueError(f"{out} is no staged folder, so that it is not overwritten: give a new folder.")
    return target


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A folder of the target's name on the target's file system; it is removed afterwards in any case."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mmtok-stage-", dir=target.parent) as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        yield folder


def move(folder: Path, target: Path) -> None:
    """Puts the finished folder into place; a folder that stood there steps aside first, and back if that fails."""
    if not target.exists():
        os.rename(folder, target)
        return
    aside = folder.parent / "replaced"
    os.rename(target, aside)
    try:
        os.rename(folder, target)
    except OSError:
        os.rename(aside, target)
        raise
