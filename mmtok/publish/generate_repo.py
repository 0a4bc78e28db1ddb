"""The `custom_generate` repository: `generate` of any stock LLaVA prunes with its code, and no weights are published.

It holds the published code of every family in one folder, where transformers looks for `custom_generate/generate.py`,
and a card.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

import mmtok
from mmtok.hub.host import NEWEST_TESTED, OLDEST_TESTED

from .base import CARD_FILE, CONFIG_FILE
from .card import AUTHORS, CODE_REPOSITORY, CodeFile, marked
from .clean_process import check_generate
from .families import FAMILIES
from .hub_errors import PublishError
from .hub_names import files_inside
from .hub_plan import Contents, RepoState, is_weight_file
from .published_files import GENERATE_FILE, GENERATE_FOLDER, generate_sources
from .recipe import Destination
from .send import PushReport, Sending, send
from .stage import checked_target, move, workspace

_TEMPLATE = Path(__file__).with_name("generate_card_template.md")
# transformers reads it before it runs the code, and names what is missing.
_REQUIREMENTS = f"transformers>={OLDEST_TESTED}\n"


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

    Everything is written beside `out` and moved there at the end.

    Args:
        out: the folder to make; has to be new or empty.
        overwrite: replaces `out` if it is itself such a folder.
        check: loads the code as a user without mmtok would, and prunes a small model with it.

    Raises:
        ValueError: unusable `out`; nothing was written.
        CheckFailed: the code does not load, or the full budget is not stock; nothing is left behind.
    """
    target = checked_target(Path(out), overwrite, _is_staged_generate)
    with workspace(target) as folder:
        _write(folder, Destination("ORGANISATION/NAME"))
        checked = check_generate(folder) if check else ()
        move(folder, target)
    return StagedGenerate(target, tuple(sorted(files_inside(target))), checked)


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
    with tempfile.TemporaryDirectory(prefix="mmtok-push-") as scratch:
        folder = Path(scratch) / "mmtok"
        folder.mkdir()
        _write(folder, destination)
        check_generate(folder)
        files = files_inside(folder)
        card = files.pop(CARD_FILE).read_text(encoding="utf-8")
        message = f"MMTok {mmtok.__version__} for custom_generate"
        sending = Sending(Contents(files, (), card), message, refuse=_refuse_models)
        return send(sending, destination, verify_after=verify_after, dry_run=dry_run)


def _write(folder: Path, destination: Destination) -> None:
    """Writes code, requirements and card."""
    (folder / GENERATE_FOLDER).mkdir()
    for path, source in generate_sources().items():
        shutil.copyfile(source, folder / path)
    (folder / GENERATE_FOLDER / "requirements.txt").write_text(_REQUIREMENTS, encoding="utf-8")
    code = {path: CodeFile.of((folder / path).read_bytes()) for path in generate_sources()}
    (folder / CARD_FILE).write_text(_card(code, destination), encoding="utf-8")


def _card(code: Mapping[str, CodeFile], destination: Destination) -> str:
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["custom_generate", "token-pruning", "vision", "multimodal", "arxiv:2508.18264"],
    )
    card = ModelCard.from_template(
        card_data=data,
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        repo=destination.repo_id,
        revision=destination.tag or "COMMIT",
        release=mmtok.__version__,
        families=[(family.title, family.stock_class) for family in FAMILIES.values()],
        code_repository=CODE_REPOSITORY,
        authors=AUTHORS,
        oldest=OLDEST_TESTED,
        newest=NEWEST_TESTED,
        code=code,
    )
    return marked(str(card), mmtok.__version__)


def _is_staged_generate(folder: Path) -> bool:
    return (folder / GENERATE_FOLDER / GENERATE_FILE).is_file() and not (folder / CONFIG_FILE).exists()


def _refuse_models(state: RepoState) -> None:
    """Weights of a model would be deleted as those of an earlier base, and its `generate` replaced."""
    held = sorted(path for path in state.files if path == CONFIG_FILE or is_weight_file(path))
    if held:
        raise PublishError(
            f"The repository holds a model ({held[0]}): give custom_generate a repository of its own. Nothing was "
            "changed."
        )
