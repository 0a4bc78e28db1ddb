"""Arguments that several commands share, their values, and the model of `--model`.

What is refused here is refused before a model is loaded. The fields of `PruningOptions` are options with their own help
texts: a new field is added nowhere else.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import Field, fields
from itertools import chain, count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtok.hub.options import PruningOptions, check_option, check_weights, options_within
from mmtok.tiny import EMBEDDED, LLAVA, checkpoint_path

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

# The budget that a model has by itself; as an argument it stands beside numbers, shares and None, which is all tokens.
MODEL = "model"
Budget = int | float | None

_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(PruningOptions)}
_NONE = "none"
_BUDGET_HELP = "vision tokens kept of each crop: a number, a share such as 0.25, all, or model for the model's own"


def add_parser(commands: Any, name: str, help: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The parser of a command, with examples, one a line, at the end of its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n  ".join(["examples:" if "\n" in examples else "example:", *examples.splitlines()]),
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="print the result alone: no progress, no explanations")
    return parser


def add_budget(parser: argparse.ArgumentParser, default: Any = MODEL, told: str = MODEL) -> None:
    """`--budget` with one value, or several where the default is not one; `told` says in the help what that is."""
    several: dict[str, Any] = {} if default == MODEL else {"nargs": "+"}
    help = f"{_BUDGET_HELP}{'; one or several' if several else ''} (default: {told})"
    parser.add_argument("--budget", metavar="N", type=budget, default=default, help=help, **several)


# Options of several commands; what differs is given where they are added.
_SHARED: dict[str, dict[str, Any]] = {
    "--batch-size": {"help": "questions at once (default: %(default)s)"},
    "--frames": {"help": "frames of a video that are read at most, evenly chosen (default: 8)"},
    "--image-memory": {
        "metavar": "MIB",
        "default": 1024,
        "help": "memory for images that are kept encoded for further questions about them (default: %(default)s)",
    },
    "--max-new-tokens": {"help": "of an answer at most (default: %(default)s)"},
}


def add_number(parser: argparse.ArgumentParser, name: str, default: int | None = None, least: int = 1) -> None:
    """One of the options that several commands have and that take a whole number of at least `least`."""
    known = {} if default is None else {"default": default}
    parser.add_argument(name, **{"metavar": "N", "type": whole(least), **_SHARED[name], **known})


def add_model(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """`--model`, which is the embedded one unless it is required, `--revision`, `--dtype` and `--device`."""
    help = (
        "staged folder or Hub repository; tiny is the embedded LLaVA, which knows 58 everyday objects, tiny-qwen the "
        "embedded Qwen2.5-VL, which also reads"
    )
    given: dict[str, Any] = {"required": True} if required else {"default": LLAVA}
    parser.add_argument("--model", **given, help=help + ("" if required else " (default: %(default)s)"))
    parser.add_argument("--revision", help="branch, tag or commit of a --model on the Hub")
    dtypes, where = ["float32", "bfloat16", "float16"], "such as cuda:0 or cpu"
    parser.add_argument("--dtype", choices=dtypes, help="of the weights (default: the model's own)")
    parser.add_argument("--device", type=device, help=f"{where} (default: the accelerator, if there is one)")


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """`--output` and `--overwrite`, for `writable_image`."""
    wanted = Path(default)
    help = f"the drawing (default: {wanted}, or the first of {wanted.stem}-2{wanted.suffix}, ... that is not there)"
    parser.add_argument("-o", "--output", type=Path, help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace an --output that is there")


def add_pruning_arguments(parser: argparse.ArgumentParser) -> None:
    """`--budget` and an argument for each option of a model that is made."""
    add_budget(parser)
    group = parser.add_argument_group("pruning options", "what config.json says; every one can be overridden in a call")
    _add_options(group, {name: f" (default: {each.default})" for name, each in _FIELDS.items()})


def add_call_options(
    parser: argparse.ArgumentParser, description: str = "for these calls, in place of the model's own"
) -> None:
    """An argument for each option of calls."""
    _add_options(parser.add_argument_group("pruning options", description), dict.fromkeys(_FIELDS, ""))


def _add_options(group: Any, defaults: dict[str, str]) -> None:
    """`--preset` and an argument for each option, with what its help says of the default."""
    group.add_argument(
        "--preset",
        metavar="NAME",
        type=_preset,
        help="sets several options, beside which others can be given: paper is the selection of the paper's code, "
        "identical picks; recommended is what is ahead in our measurements",
    )
    for name, suffix in defaults.items():
        if name == "vision_token_budget":  # which `--budget` gives
            continue
        option, text = "--" + name.replace("_", "-"), (_FIELDS[name].metadata["help"] + suffix).replace("%", "%%")
        group.add_argument(option, dest=name, metavar="VALUE", type=_reader(name), default=None, help=text)


def pruning_options_of(
    arguments: argparse.Namespace, model: str | os.PathLike[str], revision: str | None = None
) -> dict[str, Any]:
    """The options that were given for a model (folder or Hub id), and those of the preset that were not.

    Raises:
        ValueError: both weights are 0, or a preset for a model of another family.
        OSError: a preset for a model that is not there.
    """
    given = {name: getattr(arguments, name, None) for name in _FIELDS}
    options: dict[str, Any] = {
        name: (None if value == _NONE else value) for name, value in given.items() if value is not None
    }
    check_weights(options.get("text_coverage_weight", 1), options.get("vision_coverage_weight", 1))
    if not arguments.preset:
        return options
    from mmtok.publish.recipe import preset_options

    return {**preset_options(arguments.preset, model, revision=revision), **options}


def call_pruning_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options for calls of `--model`."""
    return pruning_options_of(options, base_of(options.model), options.revision)


def new_model_options(options: argparse.Namespace, base: str | Path, revision: str | None) -> dict[str, Any]:
    """The options of a model that is made of `base`, `--budget` among them."""
    own = {} if options.budget == MODEL else {"vision_token_budget": options.budget}
    return {**pruning_options_of(options, base, revision), **own}


def _reader(name: str) -> Callable[[str], Any]:
    """A function from the text of an argument to the value of the option `name`."""

    def read(text: str) -> Any:
        value: Any = text
        if text.lower() == _NONE:
            value = None
        elif name != "covered_text":
            for number in (float, json.loads):  # the second leaves whole numbers whole; a word is none of both
                with suppress(ValueError):
                    value = number(text)
        try:
            value = check_option(name, value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return _NONE if value is None else value  # argparse takes None for an option that was not given

    return read


def _preset(text: str) -> str:
    from mmtok.publish.recipe import PRESETS

    if text not in PRESETS:
        raise argparse.ArgumentTypeError(f"there is no preset {text!r}: choose from {', '.join(PRESETS)}.")
    return text


def budget(text: str) -> Budget | str:
    """A budget: a number of tokens, a share of them, None for "all", or `MODEL`.

    Raises:
        argparse.ArgumentTypeError: not a budget; the message says what is one.
    """
    if text.lower() in ("all", MODEL):
        return None if text.lower() == "all" else MODEL
    try:
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
        check_option("vision_token_budget", value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a budget: give 16, 0.25, all or model.") from error
    return value


def whole(least: int, most: float = inf) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`."""
    wanted = f"of at least {least}" if most == inf else f"from {least} to {most}"

    def read(text: str) -> int:
        if not text.lstrip("+-").isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number {wanted}.")
        return int(text)

    return read


def share(text: str) -> float:
    """A share above 0 and up to 1.

    Raises:
        argparse.ArgumentTypeError: another number, or not a number.
    """
    value = 0.0
    with suppress(ValueError):
        value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a share above 0 and up to 1, such as 0.95.")
    return value


def question(text: str) -> str:
    """A question, which says something.

    Raises:
        argparse.ArgumentTypeError: it is empty, or not UTF-8.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty: write one.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(
            f"the question {text!a} is not UTF-8: check the terminal's encoding."
        ) from error
    return text


def device(text: str) -> str:
    """A device that is there.

    Raises:
        argparse.ArgumentTypeError: not the name of a device, or of one that torch cannot use here.
    """
    import torch

    try:
        named = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a device: give one such as cpu, cuda or cuda:1.") from error
    if named.type == "cpu":
        return text
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or accelerator.type != named.type:
        raise argparse.ArgumentTypeError(
            f"torch finds no {named.type} on this machine: leave --device out, or give cpu."
        )
    there = torch.accelerator.device_count()
    if named.index is not None and named.index >= there:
        raise argparse.ArgumentTypeError(f"there are {there} {named.type} devices, counted from 0: {text} is none.")
    return text


def writable_image(path: Path | None, default: str, *, overwrite: bool = False, source: Path | None = None) -> Path:
    """Where an image can be written.

    Args:
        path: as it was given; None for the first of DEFAULT, DEFAULT-2, ... that is not there.
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


def base_of(base: str) -> str | Path:
    """A BASE as it is written on a command line: the folder of an embedded checkpoint for its name."""
    return checkpoint_path(base) if base in EMBEDDED else base


def load_model(options: argparse.Namespace) -> ImageTextToTextPipeline:
    """The pipeline of `--model`."""
    from mmtok.apps.answering import load_pipeline

    given = {name: getattr(options, name) for name in ("revision", "dtype", "device")}
    return load_pipeline(base_of(options.model), **{name: value for name, value in given.items() if value is not None})


def budgets_of(given: Sequence[Budget | str], config: Any, generation_config: Any = None) -> list[Budget]:
    """The budgets of `--budget`, each once; `MODEL` is that of `generation_config`, or else of `config`."""
    found = PruningOptions.from_config(config, **options_within(generation_config))
    budgets = [found.vision_token_budget if each == MODEL else each for each in given]
    # 1 is one token and 1.0 all of them, and the two are equal.
    return [each for index, each in enumerate(budgets) if repr(each) not in map(repr, budgets[:index])]  # type: ignore[misc]
