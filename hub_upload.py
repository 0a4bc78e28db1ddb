"""Publishes a LLaVA or LLaVA-NeXT checkpoint with MMTok pruning; the work is in `mmtok.publish`.

Exit codes: 0 done, 1 refused or failed (one sentence on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmtok.cli import push_command, stage_command, verify_command
from mmtok.publish import CheckFailed, PublishError

# Every module adds one command, with its `run`.
COMMANDS = (stage_command, push_command, verify_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="hub_upload.py",
        description="Publishes a LLaVA or LLaVA-NeXT checkpoint so that it prunes its vision tokens (MMTok).",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage. COMMAND --help explains a command.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except (CheckFailed, PublishError, ValueError, OSError) as error:
        print(f"hub_upload.py {parsed.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
