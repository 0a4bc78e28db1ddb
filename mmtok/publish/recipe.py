"""What is made of a base checkpoint, presets of its options, and where a push puts it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtok.hub.options import OPTION_NAMES, PAPER_OPTIONS, PruningOptions, is_meaningful

from .card import Measurements
from .hub import check_reference, check_repo_id, config_of

PRESETS = ("paper", "recommended")


@dataclass(frozen=True)
class Recipe:
    """What a published model is, beside its base.

    Attributes:
        options: any of `PruningOptions`; the others get the defaults of the family.
        base_revision: branch, tag or commit of a base on the Hub.
        base_model: Hub id to name as the base on the card when the base is a folder.
        measurements: results to show on the card.

    Raises:
        ValueError: an unknown option, a value out of range, or a name or list of words that cannot be used.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    base_revision: str | None = None
    base_model: str | None = None
    measurements: Measurements | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.options) - set(OPTION_NAMES)):
            raise ValueError(f"There is no option {unknown[0]!r}: the options are {', '.join(OPTION_NAMES)}.")
        PruningOptions(**self.options)
        if self.base_revision is not None:
            check_reference(self.base_revision, "revision")
        if self.base_model is not None:
            check_repo_id(self.base_model)

    def check_base(self, base: str | os.PathLike[str]) -> None:
        """Raises a ValueError when this recipe cannot be for `base`, a folder or Hub id."""
        if self.base_model is not None and not Path(base).is_dir():
            raise ValueError(
                f"base_model={self.base_model!r} was given with the Hub id {base}, which is the base itself."
            )


@dataclass(frozen=True)
class Destination:
    """Where a push puts a release.

    Attributes:
        repo_id: "ORGANISATION/NAME"; created where it is not there.
        branch: where to commit; another one than main is created where it is not there.
        tag: names the commit.
        private: creates the repository as a private one. A public one is refused then, not changed.
        create_pr: opens a pull request instead of committing to the branch.
        overwrite_card: replaces a card that somebody edited by hand.
        delete_others: deletes the files of the branch that are not part of the release, such as other weights.

    Raises:
        ValueError: a name that cannot be used, or a tag with a pull request.
    """

    repo_id: str
    branch: str = "main"
    tag: str | None = None
    private: bool = False
    create_pr: bool = False
    overwrite_card: bool = False
    delete_others: bool = False

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)
        check_reference(self.branch, "branch")
        if self.tag is not None:
            check_reference(self.tag, "tag")
        if self.tag is not None and self.create_pr:
            raise ValueError(
                f"tag={self.tag!r} was given with create_pr: tag the commit once the pull request is merged."
            )


def preset_options(preset: str, model: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Any]:
    """The options that a preset sets for a model; a stock checkpoint gets what the models get that are made of it.

    Args:
        preset: of `PRESETS`. "paper" gives picks identical to those of the paper's reference code, on every model;
            "recommended" is what is ahead of the defaults in our measurements, and nowhere behind beyond noise.
        model: folder or Hub id, of a stock or a staged model; only its `config.json` is read.
        revision: of the Hub repository.

    Raises:
        ValueError: an unknown preset, or a model of another family.
        OSError: there is no such model.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}: choose from {', '.join(PRESETS)}.")
    _, family = config_of(model, revision)
    model_class, defaults = family.load_class(), PruningOptions(**family.defaults)
    own = {name: getattr(defaults, name) for name in PAPER_OPTIONS}
    if preset == "recommended":
        return {**own, **model_class.recommended_options}
    # The family's own defaults stay, and those for what means nothing there.
    meant = {
        name: value
        for name, value in PAPER_OPTIONS.items()
        if name not in family.defaults and is_meaningful(name, value, model_class.own_options)
    }
    return {**own, **meant}
