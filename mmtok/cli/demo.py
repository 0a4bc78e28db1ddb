"""`mmtok demo` and `mmtok doctor`: the embedded models asked, and small ones compared with stock."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmtok
from mmtok.tiny import EMBEDDED

from .arguments import add_model, add_number, add_output, add_parser, load_model, whole, writable_image
from .output import explain, print_json, steps

_DEMO = """\
Stages the embedded model, loads it as every user loads a model, asks questions about a drawn image with all vision
tokens and with fewer and fewer, prints a table and draws the kept vision tokens: one row for each question, one column
for each budget. With --web, a page for the embedded model or any other."""
_DOCTOR = """\
Compares pruning with stock transformers on the installed releases and the device at hand: small models, seconds, no
network. Exit code 0 where everything is right, 1 where something differs."""


def add_demo(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok demo`."""
    parser = add_parser(commands, name, help, _DEMO, "mmtok demo --web\nmmtok demo --web --model ./llava-mmtok")
    parser.add_argument("--folder", type=Path, default=Path("demo-model"), help="where to stage (default: %(default)s)")
    add_output(parser, "demo.png")
    parser.add_argument("--seed", type=int, default=40, help="of the image and the questions (default: %(default)s)")
    parser.add_argument("--no-check", action="store_true", help="leave out the check of the staged folder")
    parser.add_argument("--web", action="store_true", help="open a page instead: your images, questions and --model")
    free = "of the page (default: the first free one from 7860)"
    parser.add_argument("--port", metavar="N", type=whole(1, 65535), help=free)
    add_number(parser, "--image-memory", least=0)
    add_model(parser)
    parser.set_defaults(run=demo)


def demo(options: argparse.Namespace) -> None:
    """Runs the demo and prints its table."""
    from rich.console import Console

    from mmtok.apps.demo import BUDGETS, COVERAGE, DPI, TOO_SMALL, as_json, demo_table, run_demo, where_it_breaks

    if options.web:
        serve_page(options)
        return
    if options.model not in EMBEDDED:
        raise ValueError(f"--model {options.model} is for the page: give --web too, or ask it with mmtok ask.")
    output = writable_image(options.output, "demo.png", overwrite=options.overwrite)
    with steps(4 + 3 * len(BUDGETS), quiet=options.quiet) as begin:
        shown = run_demo(options.model, options.folder, seed=options.seed, check=not options.no_check, begin=begin)
    shown.figure.savefig(output, dpi=DPI)
    if options.json:
        print_json({**as_json(shown), "image": str(output)})
        return
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f"\nAnswered by {shown.model_class}", soft_wrap=True)
    console.print("The image shows " + ", ".join(shown.example.shown) + ".", soft_wrap=True)
    console.print(demo_table(shown))
    explain(options, where_it_breaks(shown), COVERAGE, TOO_SMALL)
    console.print(f"The vision tokens that were kept for each question: {output}", soft_wrap=True)


def serve_page(options: argparse.Namespace) -> None:
    """Serves the page on loopback until it is interrupted.

    Raises:
        ValueError: Gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ValueError(f"The page needs Gradio: {mmtok.install_line('web')}.")
    from mmtok.apps.page import build_page, serve

    with steps(2, quiet=options.quiet) as begin:
        begin("Loading the model")
        pipe = load_model(options)
        begin("Answering the first question")
        memory = options.image_memory * 2**20
        page = build_page(pipe, embedded=options.model if options.model in EMBEDDED else None, image_memory=memory)
    serve(page, server_name="127.0.0.1", server_port=options.port, quiet=options.quiet)


def add_doctor(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok doctor`."""
    parser = add_parser(commands, name, help, _DOCTOR, "mmtok doctor --device cuda")
    parser.add_argument("--device", help="where to run (default: cuda where it is available, else cpu)")
    parser.set_defaults(run=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Runs every check; 1 where something differs."""
    from mmtok.apps.doctor import diagnose, makers

    with steps(len(makers()), quiet=options.quiet) as begin:
        found = diagnose(options.device, begin)
    if options.json:
        print_json({**asdict(found), "right": not found.problems})
    else:
        print(found.describe())
    return 1 if found.problems else 0
