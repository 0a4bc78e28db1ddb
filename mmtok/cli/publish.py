"""The commands that publish: `mmtok stage`, `push`, `stage-generate`, `push-generate` and `verify`."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .arguments import add_parser, add_pruning_arguments, base_of, new_model_options
from .output import budget_name, print_json

if TYPE_CHECKING:
    from mmtok.publish import Destination, PushReport, StagedModel

_STAGE = """\
Makes the folder of a complete model repository of a stock checkpoint: the published code, config.json, tokenizer,
processor, weights (hard links where the file system can) and a model card. At the end the folder is loaded in a clean
process and compared with its base: ids, chats and pixels, names and shapes of every tensor, and the logits with the
full budget through the first layers of the language model, bit for bit (--check full: through all of them). A stage
that fails or is interrupted leaves OUT as it was."""
_PUSH = """\
Publishes a stock checkpoint with MMTok pruning as a model repository on the Hugging Face Hub.

When BASE is a Hub id its weights are copied on the server: a few hundred kilobytes are sent, whatever the model's
size. When BASE is a folder, or the server does not copy, the weights are uploaded.

Code and configuration are loaded in a clean process and compared with the base before anything is sent. Everything
reaches the branch in one commit, then the commit is tagged and what was published is verified. Cut off at any point,
the branch holds what it held or all of the new version, and the same command completes it. A repository that holds
other files than a release is left alone, unless --delete-others says that these may go.

Log in first, once, with `hf auth login`."""
_PUSH_EXAMPLES = """\
mmtok push llava-hf/llava-1.5-7b-hf me/llava-1.5-7b-mmtok --dry-run
mmtok push llava-hf/llava-1.5-7b-hf me/llava-1.5-7b-mmtok --tag v0.1.0 --budget 64
mmtok push ./my-llava me/my-llava-mmtok --base-model llava-hf/llava-1.5-7b-hf --private"""
_STAGE_GENERATE = """\
Makes the folder of a code repository without weights, with which `generate` of any stock checkpoint prunes:

  model.generate(**inputs, custom_generate=OUT, trust_remote_code=True, vision_token_budget=64)

At the end the folder is loaded in a clean process and prunes a small model there. A call without custom_generate runs
without pruning."""
_PUSH_GENERATE = """\
Publishes the code repository of `mmtok stage-generate` on the Hugging Face Hub. With its name, `generate` of any stock
checkpoint prunes, and no weights are published:

  model.generate(**inputs, custom_generate="me/mmtok", trust_remote_code=True, vision_token_budget=64)

The code is loaded in a clean process first. Everything reaches the branch in one commit, which is verified afterwards.
A repository that holds other files, such as a model, is left alone. Log in first, once, with `hf auth login`."""
_PUSH_GENERATE_EXAMPLES = """\
mmtok push-generate me/mmtok --dry-run
mmtok push-generate me/mmtok --tag v0.1.0"""
_VERIFY = """\
Compares a published repository, or a staged folder, with the installed release of mmtok, by what transformers loads:
code files are the released ones, nothing else is there, no JSON file leads to other code, another repository, a kernel,
an adapter or other weights, and settings and weights are those of the base. Exit code 1 where something is not so. What
was not compared is said.

Nothing but small files is downloaded, and nothing is run."""
_VERIFY_EXAMPLES = """\
mmtok verify me/llava-1.5-7b-mmtok --revision v0.1.0
mmtok verify ./llava-1.5-7b-mmtok --base ./llava-1.5-7b-hf"""
_BASE_HELP = "folder or Hub id of the stock checkpoint; tiny and tiny-qwen are embedded ones"


def add_stage(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok stage`."""
    example = "mmtok stage llava-hf/llava-1.5-7b-hf ./llava-1.5-7b-mmtok --budget 64"
    parser = add_parser(commands, name, help, _STAGE, example)
    parser.add_argument("base", metavar="BASE", help=_BASE_HELP)
    parser.add_argument("out", metavar="OUT", help="the folder to make; new or empty")
    parser.add_argument("--revision", help="branch, tag or commit of a BASE on the Hub")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a staged folder")
    parser.add_argument("--copy-weights", action="store_true", help="copy the weights instead of linking them")
    _add_check(parser)
    add_pruning_arguments(parser)
    parser.set_defaults(run=stage)


def add_push(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok push`."""
    parser = add_parser(commands, name, help, _PUSH, _PUSH_EXAMPLES)
    parser.add_argument("base", metavar="BASE", help=_BASE_HELP)
    _add_destination(parser)
    parser.add_argument("--base-revision", metavar="REVISION", help="branch, tag or commit of a BASE on the Hub")
    parser.add_argument("--base-model", metavar="HUB_ID", help="base to name on the card when BASE is a folder")
    parser.add_argument("--results", metavar="FILE", type=Path, help="JSON file of measured results for the card")
    _add_check(parser)
    add_pruning_arguments(parser)
    parser.set_defaults(run=push)


def add_stage_generate(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok stage-generate`."""
    parser = add_parser(commands, name, help, _STAGE_GENERATE, "mmtok stage-generate ./mmtok_generate")
    parser.add_argument("out", metavar="OUT", help="the folder to make; new or empty")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it was made by this command")
    parser.add_argument("--no-check", action="store_true", help="leave out the load in a clean process")
    parser.set_defaults(run=stage_generate)


def add_push_generate(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok push-generate`."""
    parser = add_parser(commands, name, help, _PUSH_GENERATE, _PUSH_GENERATE_EXAMPLES)
    _add_destination(parser)
    parser.set_defaults(run=push_generate)


def add_verify(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok verify`."""
    parser = add_parser(commands, name, help, _VERIFY, _VERIFY_EXAMPLES)
    parser.add_argument("repo_or_folder", metavar="REPO_OR_FOLDER", help="Hub id or folder")
    parser.add_argument("--revision", help="branch, tag or commit of a repository (default: main)")
    parser.add_argument("--base", help="folder or Hub id to compare with (default: the one that the card names)")
    parser.add_argument("--verbose", action="store_true", help="a line for each file, every option and every problem")
    parser.set_defaults(run=verify)


def _add_destination(parser: argparse.ArgumentParser) -> None:
    """REPO_ID, and what happens to the repository."""
    parser.add_argument("repo_id", metavar="REPO_ID", help="ORGANISATION/NAME; created where it is not there")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be sent, copied and deleted; send nothing"
    )
    parser.add_argument("--private", action="store_true", help="create REPO_ID as a private repository")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--tag", metavar="vX.Y", help="name the commit")
    parser.add_argument("--revision", metavar="BRANCH", default="main", help="branch to commit to (default: main)")
    parser.add_argument("--overwrite-card", action="store_true", help="replace a card that was edited by hand, too")
    parser.add_argument(
        "--delete-others", action="store_true", help="delete the files of REPO_ID that are not part of this release"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not verify what was published")


def _add_check(parser: argparse.ArgumentParser) -> None:
    """`--check` and `--no-check`."""
    parser.add_argument(
        "--check",
        choices=["quick", "full"],
        default="quick",
        help="quick compares names, shapes and a few layers, full all layers of two models (default: %(default)s)",
    )
    parser.add_argument("--no-check", action="store_true", help="leave out the load in a clean process")


def _check_of(options: argparse.Namespace) -> bool | Literal["full"]:
    return False if options.no_check else "full" if options.check == "full" else True


@contextmanager
def tidy_end() -> Iterator[None]:
    """A SIGTERM ends the command as Ctrl-C does: what was begun is removed first. Exit code 143."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _steps(options: argparse.Namespace) -> Iterator[None]:
    """Says on standard error what is being done, unless `--quiet`; ends tidily."""
    logger, shown = logging.getLogger("mmtok"), logging.StreamHandler()
    before = logger.level
    logger.addHandler(shown)
    logger.setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        with tidy_end():
            yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(shown)


def stage(options: argparse.Namespace) -> None:
    """Stages and prints a report."""
    from mmtok.publish import Recipe
    from mmtok.publish import stage as stage_model

    base = base_of(options.base)
    recipe = Recipe(options=new_model_options(options, base, options.revision), base_revision=options.revision)
    placing = {"link_weights": not options.copy_weights, "overwrite": options.overwrite}
    with _steps(options):
        staged = stage_model(base, options.out, recipe, check=_check_of(options), **placing)
    if options.json:
        print_json(asdict(staged))
    else:
        print(_described(staged))


def _described(staged: StagedModel) -> str:
    checked = "Not checked."
    if staged.report:
        checked = (
            "Checked in a clean process: names and shapes of {tensors_compared} tensors and {prompts_compared} prompts "
            "equal the base's, logits with the full budget too (bit for bit, {layers} layers of the language model, "
            "{dtype}); the configured budget keeps {kept_tokens} of {prompt_tokens} prompt tokens of a sample."
        ).format(**staged.report)
    return (
        f"{staged.path}: {staged.model_class}, budget {budget_name(staged.vision_token_budget)}\n"
        f"{len(staged.files)} files, weights {'linked' if staged.linked else 'copied'}\n{checked}"
    )


def stage_generate(options: argparse.Namespace) -> None:
    """Stages the code and prints a report."""
    from mmtok.publish import stage_generate as stage_code

    with _steps(options):
        staged = stage_code(options.out, overwrite=options.overwrite, check=not options.no_check)
    if options.json:
        print_json(asdict(staged))
        return
    print(f"{staged.path}: {len(staged.files)} files")
    if staged.checked:
        print(f"Checked in a clean process: {', '.join(staged.checked)} can be pruned, and the full budget is stock's.")
    else:
        print("Not checked.")


def push(options: argparse.Namespace) -> int:
    """Pushes and prints a report; 1 where the published files are not the released ones."""
    from mmtok.publish import Measurements, Recipe
    from mmtok.publish import push as push_model

    base, destination = base_of(options.base), _destination_of(options)
    recipe = Recipe(
        options=new_model_options(options, base, options.base_revision),
        base_revision=options.base_revision,
        base_model=options.base_model,
        measurements=Measurements.from_file(options.results) if options.results else None,
    )
    sending = {"verify_after": not options.no_verify, "dry_run": options.dry_run}
    with _steps(options):
        report = push_model(base, destination, recipe, check=_check_of(options), **sending)
    return _finish(report, options)


def push_generate(options: argparse.Namespace) -> int:
    """Pushes the code and prints a report; 1 where the published files are not the released ones."""
    from mmtok.publish import push_generate as push_code

    with _steps(options):
        report = push_code(_destination_of(options), verify_after=not options.no_verify, dry_run=options.dry_run)
    return _finish(report, options)


def verify(options: argparse.Namespace) -> int:
    """Verifies and prints the findings; 1 where something differs from the release."""
    from mmtok.publish import verify as verify_files

    base = None if options.base is None else base_of(options.base)
    with _steps(options):
        found = verify_files(options.repo_or_folder, revision=options.revision, base=base)
    if options.json:
        print_json(asdict(found))
    else:
        print(found.describe(verbose=options.verbose))
    return 0 if found.ok else 1


def _destination_of(options: argparse.Namespace) -> Destination:
    """Where to, as it was given."""
    from mmtok.publish import Destination

    return Destination(
        options.repo_id,
        branch=options.revision,
        tag=options.tag,
        private=options.private,
        create_pr=options.create_pr,
        overwrite_card=options.overwrite_card,
        delete_others=options.delete_others,
    )


def _finish(report: PushReport, options: argparse.Namespace) -> int:
    """Prints a report; 1 where the published files are not the released ones."""
    verified = report.verification
    if options.json:
        print_json(
            {
                "repo_id": report.repo_id,
                "commit": report.commit,
                "pull_request": report.pull_request,
                "tag": report.tag,
                "uploaded_weights": report.uploaded,
                "card_kept": report.card_kept,
                "changes": [{"path": file.path, "size": file.size, "action": file.action} for file in report.changes],
                "verification": None if verified is None else asdict(verified),
            }
        )
    else:
        print(report.describe())
    return 0 if verified is None or verified.ok else 1
