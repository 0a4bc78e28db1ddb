"""Numbers in sentences: "1 vision token", "8 vision tokens", "18x fewer"."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """The number and its noun, with an "s" unless it is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def fewer(kept: int, all_of_them: int) -> str:
    """How many times fewer, with one digit behind the point below 10; "all of them" if nothing was dropped."""
    if kept >= all_of_them:
        return "all of them"
    if kept == 0:
        return "none of them"
    ratio = all_of_them / kept
    return f"{ratio:.0f}x fewer" if ratio >= 9.95 else f"{ratio:.1f}x fewer"
