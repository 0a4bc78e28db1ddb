"""Code files of an earlier release: a push deletes them, verify names them, and what the owner added stays."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hub_double import HubDouble
from published_models import TARGET

from mmtok.publish import published_sources, stage, verify
from mmtok.publish.card import CardFacts, CodeFile, render_card
from mmtok.publish.orphans import EARLIER_FILES, orphans
from mmtok.publish.push import publish
from mmtok.publish.recipe import Destination
from mmtok.publish.release import Release

# What the release before the modules moved into one folder published, and what has no file in this release any more.
BEFORE_THE_MOVE = [
    "modeling_mmtok_llava.py",
    "configuration_mmtok.py",
    "cached_prompt.py",
    "coverage.py",
    "devices.py",
    "full_prompt.py",
    "generation.py",
    "greedy.py",
    "image_tokens.py",
    "prompt.py",
    "pruned_batch.py",
    "selection.py",
    "selection_record.py",
    "similarity.py",
    "units.py",
    "vision_features.py",
    "handler.py",
]
GONE = {"full_prompt.py", "pruned_batch.py", "similarity.py", "vision_features.py"}


def card_listing(names: list[str]) -> str:
    config = {"model_type": "mmtok_llava", "vision_config": {"image_size": 28, "patch_size": 14}}
    return render_card(
        CardFacts(config=config, code_files=dict.fromkeys(names, CodeFile(1, "ab" * 32)), release="0.1.0")
    )


def published_before(hub: HubDouble, card: str) -> None:
    """A repository as the release before the move left it, with two files that its owner added."""
    code = dict.fromkeys(BEFORE_THE_MOVE, b"# of the release before")
    hub.store.seed(TARGET, {**code, "README.md": card.encode(), "serve.py": b"pass", "tools/similarity.py": b"pass"})


@pytest.mark.parametrize("edited", [False, True])
def test_a_push_over_an_earlier_release_leaves_no_orphan(hub: HubDouble, release: Release, edited: bool) -> None:
    card = card_listing(BEFORE_THE_MOVE)
    published_before(hub, re.sub(r"## Remote code.*", "Code: mine.", card, flags=re.DOTALL) if edited else card)
    report = publish(release, Destination(TARGET))
    assert {file.path for file in report.plan.files if file.action == "delete"} >= GONE
    assert {path for path in hub.tree(TARGET) if path.endswith(".py")} == {
        *published_sources("llava"),
        "serve.py",
        "tools/similarity.py",
    }
    assert report.verification is not None
    assert report.verification.ok, report.verification.describe()
    assert report.verification.other_code == ("serve.py", "tools/similarity.py")


def test_a_dry_run_shows_what_would_be_deleted(hub: HubDouble, release: Release) -> None:
    published_before(hub, card_listing(BEFORE_THE_MOVE))
    shown = publish(release, Destination(TARGET), dry_run=True).plan.describe()
    assert re.search(r"delete +23 B  similarity.py", shown)
    assert "similarity.py" in hub.tree(TARGET)


def test_verify_names_orphans(base: Path, tmp_path: Path) -> None:
    staged = stage(base, tmp_path / "staged", check=False).path
    assert verify(staged).orphans == ()
    (staged / "README.md").write_text(card_listing([*published_sources("llava"), "similarity.py"]), encoding="utf-8")
    shutil.copyfile(staged / "devices.py", staged / "similarity.py")
    found = verify(staged)
    assert found.orphans == ("similarity.py",)
    assert found.problems == (
        "similarity.py is of an earlier release, and nothing of this one imports it: push again, or delete it.",
    )
    assert "orphan   similarity.py" in found.describe()


def test_whose_file_it_is_is_told_by_the_card_and_else_by_the_names_of_earlier_releases() -> None:
    ours = ["modeling_mmtok_llava.py", "similarity.py", "serve.py"]
    released = ["modeling_mmtok_llava.py"]
    listing, silent = card_listing(ours[:2]), card_listing(released)
    assert orphans(ours, released, listing) == ("similarity.py",)
    assert orphans(ours, released, listing.replace("\n", "\r\n")) == ("similarity.py",)
    without_bytes = re.sub(r"(?m)^(\| `\w+\.py` \|) 1 \|", r"\1", listing)
    assert without_bytes != listing
    assert orphans(ours, released, without_bytes) == ("similarity.py",), "as cards of earlier releases list files"
    assert orphans(ours, released, silent) == (), "an untouched card says that similarity.py is the owner's"
    assert orphans(ours, released, silent + "\nMy notes.\n") == ("similarity.py",)
    assert orphans(ours, released, None) == ("similarity.py",)
    assert orphans(ours[1:], released, "# A model of mine\n") == (), "nothing of ours was ever there"
    assert set(BEFORE_THE_MOVE) <= EARLIER_FILES
