"""Values as they are written on a command line. What is refused here is refused before a model is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path

from mmtok.hub.options import check_option


def budget(text: str) -> int | float | None:
    """A budget: a number of tokens, a share of them, or all.

    Raises:
        argparse.ArgumentTypeError: no budget; the message says what is one.
    """
    if text.lower() in ("all", "none"):
        return None
    try:
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
        check_option("vision_token_budget", value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no budget: give 16, 0.25 or all.") from error
    return value


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers of at least `least`."""

    def read(text: str) -> int:
        if not text.lstrip("+-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least {least}.")
        return int(text)

    return read


def question(text: str) -> str:
    """A question, which says something.

    Raises:
        argparse.ArgumentTypeError: it is empty, or no UTF-8.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty: write one.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(
            f"the question {text!a} is no UTF-8: check the terminal's encoding."
        ) from error
    return text


def port(text: str) -> int:
    """A port of this machine.

    Raises:
        argparse.ArgumentTypeError: no number from 1 to 65535.
    """
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535.")
    return int(text)


def device(text: str) -> str:
    """A device that is there.

    Raises:
        argparse.ArgumentTypeError: no name of a device, or of none that torch can use here.
    """
    import torch

    try:
        named = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no device: give one such as cpu, cuda or cuda:1.") from error
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if named.type != "cpu" and (accelerator is None or accelerator.type != named.type):
        raise argparse.ArgumentTypeError(
            f"torch finds no {named.type} on this machine: leave --device out, or give cpu."
        )
    if named.type != "cpu" and named.index is not None and named.index >= torch.accelerator.device_count():
        count = torch.accelerator.device_count()
        raise argparse.ArgumentTypeError(f"there are {count} {named.type} devices, counted from 0: {text} is none.")
    return text


def writable_image(path: Path | None, default: str, *, overwrite: bool = False, source: Path | None = None) -> Path:
    """Where an image can be written.

    Args:
        path: as it was given; None for the first of DEFAULT, DEFAULT-2, ... that is not there.
        default: name of the file where none was given.
        overwrite: whether a file that is there may be replaced.
        source: what is read, which is never written.

    Raises:
        ValueError: an ending that stands for no format, a folder that is not there, a file that is there, or `source`.
    """
    from PIL import Image

    if path is None:
        wanted = Path(default)
        numbered = (wanted.with_stem(f"{wanted.stem}-{number}") for number in count(2))
        return next(each for each in chain([wanted], numbered) if not each.exists())
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{path} names no image format: let it end in .png.")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"The folder of {path} is not there: make it first.")
    if source is not None and path.exists() and path.samefile(source):
        raise ValueError(f"{path} is what is asked about: name another output.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: give --overwrite, or name another output.")
    return path


def add_output_option(parser: argparse.ArgumentParser, default: str) -> None:
    """`--output` and `--overwrite`, for `writable_image`."""
    wanted = Path(default)
    help = f"the drawing (default: {wanted}, or the first of {wanted.stem}-2{wanted.suffix}, ... that is not there)"
    parser.add_argument("-o", "--output", type=Path, help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace an --output that is there")
