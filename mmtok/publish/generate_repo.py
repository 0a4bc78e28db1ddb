"""The `custom_generate` repository: `generate` of any stock LLaVA prunes with its code, and no weights are published.

It holds the published code of every family in one folder, where transformers looks for `custom_generate/generate.py`,
and a card.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

import mmtok
from mmtok import install_line
from mmtok.hub.families import FAMILIES
from mmtok.hub.releases import NEWEST_TESTED, OLDEST_TESTED

from .card import AUTHORS, CODE_REPOSITORY, marked
from .clean_process import check_generate
from .push import PushReport, Release, publish, push_workspace
from .recipe import Destination
from .repository import CARD_FILE, generate_code, generate_files
from .stage import placed

_TEMPLATE = Path(__file__).with_name("generate_card_template.md")


@dataclass(frozen=True)
class StagedGenerate:
    """A folder that `custom_generate=` takes.

    Attributes:
        path: the folder.
        files: paths of its files in it, sorted.
        checked: names of the stock classes whose pruned class was loaded in a clean process; empty without the check.
    """

    path: Path
    files: tuple[str, ...]
    checked: tuple[str, ...] = ()


def stage_generate(out: str | os.PathLike[str], *, overwrite: bool = False, check: bool = True) -> StagedGenerate:
    """Makes the folder of a `custom_generate` repository.

    Args:
        out: the folder to make; has to be new or empty. Everything is written beside it and moved there at the end.
        overwrite: replaces `out` if it is itself such a folder.
        check: loads the code as a user without mmtok would, and prunes a small model with it.

    Raises:
        ValueError: unusable `out`; nothing was written.
        CheckFailed: the code does not load, or the full budget is not stock; nothing is left behind.
    """
    with placed(out, overwrite, code_alone=True) as folder:  # of its name transformers makes the module's
        files = _write(folder)
        (folder / CARD_FILE).write_text(_card(Destination("ORGANISATION/NAME")), encoding="utf-8")
        checked = check_generate(folder, folder.parent) if check else ()
    return StagedGenerate(Path(out).resolve(), tuple(sorted([*files, CARD_FILE])), checked)


def push_generate(destination: Destination | str, *, verify_after: bool = True, dry_run: bool = False) -> PushReport:
    """Publishes the `custom_generate` repository, in one commit.

    Args:
        destination: where to; a text is the repo id.
        verify_after: downloads what was published and compares it with the release.
        dry_run: sends nothing; the report holds the plan.

    Raises:
        ValueError: a name that cannot be used; nothing was sent.
        CheckFailed: the code does not load; nothing was sent.
        PublishError: the repository holds a model, or the Hub refused or failed; the message says what holds now.
    """
    if isinstance(destination, str):
        destination = Destination(destination)
    with push_workspace(destination.repo_id) as space:
        folder = space / "mmtok"
        check = partial(check_generate, folder, space)
        release = Release(_write(folder), _card, f"MMTok {mmtok.__version__} for custom_generate", check=check)
        return publish(release, destination, verify_after=verify_after, dry_run=dry_run)


def _write(folder: Path) -> dict[str, Path]:
    """Writes everything but the card; returns the files by their path in the repository."""
    files = {}
    for path, content in generate_files().items():
        files[path] = folder / path
        files[path].parent.mkdir(parents=True, exist_ok=True)
        files[path].write_bytes(content)
    return files


def _card(destination: Destination) -> str:
    tags = ["custom_generate", "token-pruning", "vision", "multimodal", "arxiv:2508.18264"]
    card = ModelCard.from_template(
        card_data=ModelCardData(license="apache-2.0", library_name="transformers", tags=tags),
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        repo=destination.repo_id,
        revision=destination.tag or "COMMIT",
        release=mmtok.__version__,
        families=[(family.title, family.stock_class) for family in FAMILIES.values()],
        code_repository=CODE_REPOSITORY,
        authors=AUTHORS,
        oldest=OLDEST_TESTED,
        newest=NEWEST_TESTED,
        files=len(generate_code()),
        install=install_line("publish"),
    )
    return marked(str(card), mmtok.__version__)
