"""Staging: a stock checkpoint becomes the folder of a complete model repository, all of it or nothing."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

import mmtok
from mmtok.hub.families import PREFIX

from .base import BaseCheckpoint, open_base, place_weights
from .card import CardFacts, render_card
from .clean_load import image_text
from .clean_process import check_staged
from .recipe import Recipe
from .repository import (
    CARD_FILE,
    CONFIG_FILE,
    GENERATE_FILE,
    GENERATE_FOLDER,
    INDEX_FILE,
    as_json,
    files_inside,
    generate_files,
    is_known_file,
    listed,
    published_code,
    read_json,
    shown,
)
from .settings import chat_template_of, load_processor, published_config, question_format_of, write_settings

log = logging.getLogger(__name__)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


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
    check: bool | Literal["full"] = True,
) -> StagedModel:
    """Makes a complete model repository of a stock checkpoint.

    Everything is written beside `out` and moved there in one step at the end. A stage that fails, is interrupted or
    killed leaves `out` as it was; what it wrote beside it is removed, after a kill by the next stage to `out`.

    Args:
        base: folder or Hub id of the stock checkpoint.
        out: the folder to make; has to be new or empty.
        recipe: options, words and card; the defaults without one.
        link_weights: hard links to the base's weight files where the file system can; False copies them.
        overwrite: replaces `out` if it is itself a staged folder, with no file of somebody else's.
        check: loads the result in a clean process and compares it with the base; "full" compares all layers, which
            takes the memory of one model and the time of two.

    Raises:
        ValueError: unusable base, `out` or recipe; nothing was written.
        CheckFailed: the result does not load, or is not the base; nothing is left behind.
    """
    recipe = recipe or Recipe()
    target = _checked_target(out, overwrite, base=Path(base))
    recipe.check_base(base)
    log.info("Reading the base %s", base)
    found = open_base(base, revision=recipe.base_revision)
    with placed(out, overwrite) as folder:
        base_copy = found.copied_to(folder.parent / "base")
        facts = write_repository(base_copy, folder, recipe)
        linked = place_weights(found.weights, folder, link=link_weights)
        report = {}
        if check:
            report = check_staged(folder, base_copy, folder.parent, headers=found.headers, full=check == "full")
        files = tuple(sorted(path.name for path in folder.iterdir()))
    budget = facts.config["vision_token_budget"]
    return StagedModel(target, files, found.family.model_class, budget, linked, report)


def write_repository(base: BaseCheckpoint, folder: Path, recipe: Recipe) -> CardFacts:
    """Writes everything but the weights into an empty folder, and returns what the card says; see `load_processor`."""
    processor = load_processor(base)
    template = chat_template_of(processor)
    if not template:
        log.warning(
            "%s has no chat template: write its prompts yourself, with %s where an image stands.",
            base.name,
            shown(image_text(processor)),
        )
    with base.reading("The tokenizer or chat template"):
        question_format = question_format_of(processor, recipe.options.get("question_format"))
    config = published_config(base, {**recipe.options, "question_format": question_format})
    with base.reading("The tokenizer"):
        write_settings(base, processor.tokenizer, folder)
    if INDEX_FILE in base.sources:
        shutil.copyfile(base.folder / INDEX_FILE, folder / INDEX_FILE)
    for name, content in published_code(base.config["model_type"]).items():
        (folder / name).write_bytes(content)
    (folder / CONFIG_FILE).write_text(as_json(config), encoding="utf-8")
    with base.reading("The card or configuration"):
        facts = CardFacts.of_folder(
            folder,
            release=mmtok.__version__,
            base_folder=base.folder,
            base_model=recipe.base_model or base.repo_id,
            base_revision=base.commit,
            measurements=recipe.measurements,
            chat_template=bool(template),
            # It stands in a program on the card: printable, and without quotes.
            image_text=re.sub(r"[^\w<>|\[\]().:/ -]", "", image_text(processor)),
        )
        (folder / CARD_FILE).write_text(render_card(facts), encoding="utf-8")
    return facts


@contextmanager
def placed(out: str | os.PathLike[str], overwrite: bool, *, code_alone: bool = False) -> Iterator[Path]:
    """A new folder of the name of `out`, which takes the place of `out` in one step at the end.

    With `overwrite` also that of a staged folder of the same kind, a model's or `code_alone`. Temporary files may stand
    beside it. A ValueError where it may not be made, or another run is making it; `out` is as it was.
    """
    target = _checked_target(out, overwrite, code_alone)
    with target_workspace(target) as space:
        folder = space / "new" / target.name
        folder.mkdir(parents=True)
        yield folder
        if not overwrite or not target.exists() or not any(target.iterdir()):
            try:
                os.rename(folder, target)  # fails where the target has files
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                message = f"{shown(target)} was filled meanwhile, and stays as it is: give a new folder."
                raise ValueError(message) from None
            return
        _require_ours(target, code_alone, target)
        if not _exchanged(folder, target):
            # Killed between these two lines, the next run puts the old folder back, see `_tidy`.
            os.rename(target, space / "replaced")
            os.rename(folder, target)
            return
        try:
            _require_ours(folder, code_alone, target)  # nothing can be added to it any more
        except ValueError:
            _exchanged(folder, target)
            raise


def _checked_target(
    out: str | os.PathLike[str], overwrite: bool, code_alone: bool = False, base: Path | None = None
) -> Path:
    """The absolute path of the folder to make; a ValueError where it may not be made, as in the base or over it."""
    if not os.fspath(out):
        raise ValueError("'' is not a folder: give the folder to make.")
    if Path(out).is_symlink():
        raise ValueError(f"{shown(out)} is a link: give the folder itself.")
    target = Path(out).resolve()
    if base is not None and base.is_dir():
        stock = base.resolve()
        if target == stock or target in stock.parents:
            raise ValueError(f"{shown(out)} is the base or holds it: stage into another folder.")
        if stock in target.parents:
            raise ValueError(f"{shown(out)} lies within the base: stage into another folder.")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{shown(out)} is a file: give a new folder.")
    if target.exists() and any(target.iterdir()):
        if not overwrite:
            raise ValueError(f"{shown(out)} is not empty: give a new folder, or overwrite it if it is a staged one.")
        _require_ours(target, code_alone, target)
    return target


def _require_ours(folder: Path, code_alone: bool, called: Path) -> None:
    """Raises a ValueError for a folder that is not a staged one of this kind, or holds what no stage wrote."""
    names = files_inside(folder)
    model_type = str(read_json(folder / CONFIG_FILE).get("model_type")) if CONFIG_FILE in names else ""
    has_code_alone = f"{GENERATE_FOLDER}/{GENERATE_FILE}" in names and CONFIG_FILE not in names
    if not (has_code_alone if code_alone else model_type.startswith(PREFIX)):
        raise ValueError(f"{shown(called)} is not a staged folder, so that it is not overwritten: give a new folder.")
    weights = [INDEX_FILE, *(name for name in names if "/" not in name and name.endswith(".safetensors"))]
    code, weights = (generate_files(), []) if code_alone else (published_code(model_type), weights)
    if found := [name for name in names if not is_known_file(name, code, weights)]:
        raise ValueError(
            f"{shown(called)} holds {listed(found)}, which no stage wrote, so that it is not overwritten: move that "
            "away, or give a new folder."
        )


@contextmanager
def target_workspace(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` for one run at a time, else a ValueError; what a killed run left goes first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    space = target.parent / f".mmtok-stage-{target.name}"
    lock = FileLock(space / "lock")
    try:
        space.mkdir(mode=0o700, exist_ok=True)
        if space.is_symlink() or (hasattr(os, "getuid") and space.stat().st_uid != os.getuid()):
            raise ValueError(f"{shown(space)} is not yours: remove it.")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(f"Another run is making {shown(target)}: wait for it, or give another name.") from None
        _tidy(space, target)
        yield space
    finally:
        if lock.is_locked:
            try:
                _tidy(space, target)
            finally:  # also when another signal comes in the middle
                _tidy(space, target)
                shutil.rmtree(space, ignore_errors=True)
                lock.release()
        else:
            with suppress(OSError):  # another run has it
                space.rmdir()


def _tidy(space: Path, target: Path) -> None:
    """Removes everything but the lock; what stood at the target goes back there."""
    if (space / "replaced").exists() and not target.exists():
        os.rename(space / "replaced", target)
    for path in space.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; False where the system or the file system cannot."""
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "renameat2"):
        return False
    return library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
