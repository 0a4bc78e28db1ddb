"""`vllm serve` of the CPU build, whose own command looks for a package named vllm and finds none.

`python vllm_serve.py MODEL --port 8000 ...` takes the arguments of `vllm serve`.
"""

from __future__ import annotations

import sys

import model_runner_v2

# Here, because the processes that vLLM starts import this file and call nothing of it.
if model_runner_v2.is_wanted():
    model_runner_v2.name_driver()


def main() -> None:
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser, command = FlexibleArgumentParser(), ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    arguments = parser.parse_args(["serve", *sys.argv[1:]])
    command.validate(arguments)
    command.cmd(arguments)


if __name__ == "__main__":
    main()
