"""`python -m mmtok.evaluation` is `mmtok eval`, under a name that launchers of several processes take."""

from __future__ import annotations

import sys

from mmtok.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
