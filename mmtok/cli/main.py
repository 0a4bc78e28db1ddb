"""The `mmtok` command.

Exit codes: 0 done, 1 refused or failed (one sentence on standard error), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import mmtok

_DESCRIPTION = """\
Vision-language models that read only the vision tokens which cover the question and the image (MMTok).

Try it, offline, on the small model that comes with the package:

  mmtok demo                                   three questions about an image, with fewer and fewer tokens
  mmtok show photo.jpg "Is there a dog?"       which patches are kept, as an image
  mmtok ask photo.jpg "Is there a dog?"        answers with all tokens and with few

Make a model repository of your own checkpoint, and use it with --model:

  mmtok stage llava-hf/llava-1.5-7b-hf ./llava-mmtok
  mmtok show --model ./llava-mmtok photo.jpg "Is there a dog?"
"""
_PUBLISHING_DESCRIPTION = """\
Publishes a stock checkpoint so that it prunes its vision tokens, or the code that prunes a stock one: the same as the
commands of `mmtok` with these names.
"""
# What an option was taken for -> what it is called here.
_OTHER_NAMES = {
    "--vision-token-budget": "--budget",
    "--vision-token-share": "--budget",
    "--input": "--questions",
    "--question-file": "--questions",
    "--max-tokens": "--max-new-tokens",
}
# Extra of the package -> the modules that its commands import.
EXTRAS: dict[str, tuple[str, ...]] = {
    "publish": ("PIL", "accelerate", "filelock", "huggingface_hub", "jinja2", "safetensors", "tqdm"),
    "demo": ("PIL", "accelerate", "filelock", "huggingface_hub", "jinja2", "matplotlib", "rich", "safetensors", "tqdm"),
}
# What ends a command with one sentence; every other exception is a fault of ours and shows where it comes from.
_REFUSALS = (ValueError, OSError, RuntimeError, ImportError)


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        help: its line in the help.
        module: of this package; its `add_` and the name of the command adds it.
        extra: the extra of the package that it needs.
        resumes: interrupted, the same command goes on.
    """

    help: str
    module: str
    extra: str = "demo"
    resumes: bool = False


# In the order of the help. A module is imported when its command is given, so that the help is there at once.
COMMANDS: dict[str, Command] = {
    "demo": Command("the embedded model, with fewer and fewer tokens; --web opens a page", "demo"),
    "show": Command("draw the patches that are kept of an image or video for a question", "ask"),
    "ask": Command("answer questions about an image or video with several budgets", "ask"),
    "compare": Command("find the smallest budget that keeps the answers about your images", "questions", resumes=True),
    "generate": Command(
        "answer a file of questions, in order, resumable, on many processes", "questions", resumes=True
    ),
    "eval": Command("accuracy on files of questions with answers, per method and budget", "questions", resumes=True),
    "bench": Command("time to first token and total time on this machine", "ask"),
    "doctor": Command("compare pruning with stock on the installed releases, in seconds", "demo"),
    "stage": Command("make a model repository of a stock checkpoint, on this machine", "publish", "publish"),
    "push": Command("publish a stock checkpoint on the Hub, in one commit", "publish", "publish"),
    "stage-generate": Command("make the code repository for custom_generate, on this machine", "publish", "publish"),
    "push-generate": Command("publish the code for custom_generate on the Hub", "publish", "publish"),
    "verify": Command("compare a published repository with the installed release", "publish", "publish"),
}
PUBLISHING = tuple(name for name, command in COMMANDS.items() if command.extra == "publish")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line of `mmtok` and returns its exit code."""
    return _run("mmtok", _DESCRIPTION, COMMANDS, arguments)


def publishing_main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line of `hub_upload.py`, which has the commands that publish, and returns its exit code."""
    commands = {name: COMMANDS[name] for name in PUBLISHING}
    return _run("hub_upload.py", _PUBLISHING_DESCRIPTION, commands, arguments)


def _run(prog: str, description: str, commands: dict[str, Command], arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in given if not word.startswith("-")), None)
    command = commands.get(str(name))
    told, shows_traceback = f"{prog} {name}" if command else prog, "--traceback" in given
    try:
        parser, own = _parsers(prog, description, commands, name)
        if not given:
            parser.print_help(sys.stderr)
            raise SystemExit(2)
        options, unknown = parser.parse_known_args(given)
        if unknown:
            own.error(_not_understood(own, unknown))
        shows_traceback = options.traceback
        if not options.quiet:
            return options.run(options) or 0
        with import_module("mmtok.cli.output").without_loading_bars():
            return options.run(options) or 0
    except _REFUSALS as error:
        if shows_traceback:
            traceback.print_exc()
        print(f"{told}: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if shows_traceback:
            traceback.print_exc()
        rest = ": the same command continues where it was." if command and command.resumes else "."
        print(f"{told}: interrupted{rest}", file=sys.stderr)
        return 130


def _parsers(
    prog: str, description: str, commands: dict[str, Command], given: str | None
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parser of all commands, of which only `given` has its arguments, and that of the given one."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"`{prog} COMMAND --help` explains a command; --json makes its result readable for programs,\n"
        "--quiet prints the result alone, --traceback shows where an error comes from.\n"
        "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"mmtok {mmtok.__version__}")
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, command in commands.items():
        if name != given:
            added.add_parser(name, help=command.help, add_help=False)
            continue
        missing = [module for module in EXTRAS[command.extra] if find_spec(module) is None]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise ValueError(f"{', '.join(missing)} {verb} not installed: run {mmtok.install_line(command.extra)}.")
        module = import_module(f"mmtok.cli.{command.module}")
        getattr(module, f"add_{name.replace('-', '_')}")(added, name, command.help)
        added.choices[name].add_argument("--traceback", action="store_true", help="show where an error comes from")
    own = added.choices.get(str(given), parser)
    for each in {parser, own}:
        # The usage stands before the message about a mistake: it names what is required, and the help all options.
        formatter = argparse.HelpFormatter(each.prog, width=1000)
        formatter.add_usage(None, [action for action in each._actions if action.required], [])
        each.usage = f"%(prog)s [options] {formatter.format_help().partition(each.prog)[2].strip()}".rstrip()
    return parser, own


def _not_understood(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """Sentences on what a parser does not know; of an option, which one is meant."""
    known = [option for action in parser._actions for option in action.option_strings]
    sentences = []
    for option in (word.partition("=")[0] for word in unknown if word.startswith("--")):
        meant = [_OTHER_NAMES.get(option, ""), *get_close_matches(option, known, 1, 0.75)]
        right = next((each for each in meant if each in known), "")
        sentences.append(f"{option} is not an option" + (f": give {right}." if right else "."))
    return " ".join(sentences) or f"{' '.join(unknown)}: not understood."


def _sentence(error: Exception) -> str:
    """The message; that of an error which is none of ours, such as torch's, says what it is and how to see more."""
    ours = type(error).__module__.partition(".")[0] == "mmtok"
    if "operator torchvision::" in str(error.__cause__ or error):
        return (
            f"torchvision does not load beside the installed torch ({error.__cause__ or error}): install both from one "
            "index, for the CPU with `pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu`."
        )
    if ours or isinstance(error, (ValueError, OSError)):
        return str(error)
    return f"{type(error).__name__}: {error} (--traceback shows where it comes from)"
