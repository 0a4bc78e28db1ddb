"""The `mmtok` command.

Exit codes: 0 done, 1 refused or failed (one sentence on standard error), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import mmtok

_DESCRIPTION = """\
LLaVA-1.5 and LLaVA-NeXT that read only the vision tokens which cover the question and the picture (MMTok).

Try it, offline, on the small model that comes with the package:

  mmtok demo                                   three questions about a picture, with fewer and fewer tokens
  mmtok show photo.jpg "Is there a dog?"       which patches are kept, as a picture
  mmtok ask photo.jpg "Is there a dog?"        answers with all tokens and with few

Make a model repository of your own checkpoint, and use it with --model:

  mmtok stage llava-hf/llava-1.5-7b-hf ./llava-mmtok
  mmtok show --model ./llava-mmtok photo.jpg "Is there a dog?"
"""


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        help: its line in the help.
        module: whose `add_command` adds it.
        resumes: interrupted, the same command goes on.
    """

    help: str
    module: str
    resumes: bool = False


# In the order of the help. A module is imported when its command is given, so that the help is there at once.
COMMANDS: dict[str, Command] = {
    "demo": Command("the embedded model, with fewer and fewer tokens; --web opens a page", "demo"),
    "show": Command("draw the patches that are kept of a picture for a question", "show"),
    "ask": Command("answer questions about a picture with several budgets", "ask"),
    "generate": Command("answer a file of questions, in order, resumable, on many processes", "generate", resumes=True),
    "eval": Command("accuracy on POPE-style question files, per method and budget", "evaluate", resumes=True),
    "bench": Command("time to first token and total time on this machine", "bench"),
    "stage": Command("make a model repository of a stock checkpoint, on this machine", "publishing"),
    "push": Command("publish a stock checkpoint on the Hub, in one commit", "publishing"),
    "verify": Command("compare a published repository with the installed release", "publishing"),
}


class CommandParser(argparse.ArgumentParser):
    """Its usage names what has to be given; the options, of which every knob is one, follow in the help."""

    def format_usage(self) -> str:
        """The usage alone, as it stands before the message about a mistake."""
        self._shorten()
        return super().format_usage()

    def format_help(self) -> str:
        """The whole help."""
        self._shorten()
        return super().format_help()

    def _shorten(self) -> None:
        formatter = argparse.HelpFormatter(self.prog, width=1000)
        formatter.add_usage(None, [action for action in self._actions if action.required], [])
        needed = formatter.format_help().partition(self.prog)[2].strip()
        self.usage = f"%(prog)s [options] {needed}".rstrip()


def build_parser(given: str | None) -> argparse.ArgumentParser:
    """The parser; only the command `given` has its arguments."""
    parser = CommandParser(
        prog="mmtok",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`mmtok COMMAND --help` explains a command; --json makes its result readable for programs.\n"
        "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"mmtok {mmtok.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        if name == given:
            import_module(f"mmtok.cli.{command.module}").add_command(commands, name, command.help)
        else:
            commands.add_parser(name, help=command.help, add_help=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(next((word for word in given if not word.startswith("-")), None))
    if not given:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    options = parser.parse_args(given)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"mmtok {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        rest = ": the same command goes on where it was." if COMMANDS[options.command].resumes else "."
        print(f"mmtok {options.command}: interrupted{rest}", file=sys.stderr)
        return 130
