"""Code files of an earlier release that a repository still holds although the new release has no such file.

A Python file of a repository may be ours or its owner's, and only ours may be deleted. Two records tell:

- The card lists the code files that were published with it.
- Where somebody edited the card, its list may be old or gone. Then the names that earlier releases published count too,
  in a folder of the repository that holds a modeling file of ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from .card import edited_by_hand

# What earlier releases published. A name is added when a file is renamed or removed; none is ever taken out.
EARLIER_FILES: frozenset[str] = frozenset(
    {
        "cached_prompt.py",
        "configuration_mmtok.py",
        "coverage.py",
        "devices.py",
        "fused_greedy.py",
        "full_prompt.py",
        "generation.py",
        "greedy.py",
        "handler.py",
        "image_tokens.py",
        "llava_images.py",
        "modeling_mmtok_llava.py",
        "objective.py",
        "packing.py",
        "prompt.py",
        "pruned_batch.py",
        "pruned_prompt.py",
        "question.py",
        "selection.py",
        "selection_record.py",
        "similarity.py",
        "units.py",
        "vision_features.py",
    }
)
# Cards of earlier releases have no column of bytes.
_LISTED = re.compile(r"^\| `((?:custom_generate/)?\w+\.py)` \|(?: [\d,]+ \|)? `[0-9a-f]{64}` \|$", re.MULTILINE)
_MODELING = re.compile(r"((?:custom_generate/)?)modeling_mmtok_\w+\.py")


def orphans(paths: Collection[str], released: Collection[str], card: str | None) -> tuple[str, ...]:
    """Names of the code files that an earlier release left behind, sorted.

    Args:
        paths: every file of the repository.
        released: names of the code files of the new release.
        card: the repository's card, None without one.
    """
    return tuple(sorted((_published_earlier(paths, card) & set(paths)) - set(released)))


def _published_earlier(paths: Collection[str], card: str | None) -> set[str]:
    listed = set(_LISTED.findall((card or "").replace("\r\n", "\n")))
    if card is not None and listed and not edited_by_hand(card):
        return listed
    folders = {found[1] for found in map(_MODELING.fullmatch, paths) if found}
    return listed | {folder + name for folder in folders for name in EARLIER_FILES}
