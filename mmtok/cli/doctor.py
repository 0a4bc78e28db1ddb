"""`mmtok doctor`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import add_parser
from .output import print_json, steps

if TYPE_CHECKING:
    from mmtok.apps.doctor import Diagnosis

_DESCRIPTION = """\
Compares pruning with stock transformers on the installed releases and the device at hand: small models, seconds, no
network. Exit code 0 where everything is right, 1 where something differs."""


def add_doctor(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = add_parser(commands, name, help, _DESCRIPTION, "mmtok doctor --device cuda")
    parser.add_argument("--device", help="where to run (default: cuda where it is available, else cpu)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from mmtok.apps.doctor import diagnose
    from mmtok.apps.doctor_models import makers

    with steps(len(makers()), quiet=arguments.quiet) as begin:
        found = diagnose(arguments.device, begin)
    if arguments.json:
        print_json(found.as_dict())
    else:
        print("\n".join(lines(found)))
    return 0 if found.right else 1


def lines(found: Diagnosis) -> list[str]:
    """What the command prints: versions, every check, and one line that says whether all is right."""
    versions = [f"{name} {value}" for name, value in found.machine["versions"].items()]
    oldest, newest = found.tested
    told = [
        ", ".join(versions),
        f"device: {found.device}, greedy maximiser: {found.greedy}",
        f"tested with transformers {oldest} to {newest}",
        "",
        *(f"{check.problem or 'right':<20} {check.model}: {check.what}" for check in found.checks),
        "",
        *(f"not checked          {each}" for each in found.unchecked),
    ]
    if found.right:
        return [*told, f"Right: all {len(found.checks)} checks hold; what was not checked stands above."]
    wrong = "; ".join(f"{check.model}, {check.what}" for check in found.problems)
    return [*told, f"Wrong: {len(found.problems)} of {len(found.checks)} checks: {wrong}."]
