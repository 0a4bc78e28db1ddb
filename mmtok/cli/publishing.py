"""`mmtok stage`, `mmtok push` and `mmtok verify`: the commands of `hub_upload.py`, with `--json`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mmtok.cli import push_command, stage_command, verify_command

from .common import add_json_option


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command `name` of `hub_upload.py`."""
    if name == "verify":
        verify_command.add_command(commands)
        return
    command, run_json = {"stage": (stage_command, _stage_json), "push": (push_command, _push_json)}[name]
    command.add_command(commands)
    parser: argparse.ArgumentParser = commands.choices[name]
    add_json_option(parser)
    parser.set_defaults(run=_either(command.run, run_json))


def _either(run: Callable[..., Any], run_json: Callable[..., Any]) -> Callable[[argparse.Namespace], Any]:
    return lambda options: run_json(options) if options.json else run(options)


def _stage_json(options: argparse.Namespace) -> None:
    _print(asdict(stage_command.stage_as_told(options)))


def _push_json(options: argparse.Namespace) -> int:
    report = push_command.push_as_told(options)
    plan, verified = report.plan, report.verification
    _print(
        {
            "repo_id": plan.repo_id,
            "commit": report.commit,
            "pull_request": report.pull_request,
            "tag": report.tag,
            "uploaded_weights": report.uploaded,
            "card_kept": plan.card_kept,
            "changes": [asdict(change) for change in plan.changes],
            "verification": None if verified is None else asdict(verified),
        }
    )
    return 0 if verified is None or verified.ok else 1


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, default=str))
