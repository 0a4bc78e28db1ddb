"""Publishes a stock checkpoint with MMTok pruning: `mmtok stage`, `mmtok push` and `mmtok verify`.

Exit codes: 0 done, 1 refused or failed (one sentence on standard error), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys

from mmtok.cli.main import publishing_main as main

if __name__ == "__main__":
    sys.exit(main())
