"""Peak memory and time of one selection over a whole video: `python -m benchmarks.video_memory`.

The features are in bfloat16, as wide as those of Qwen2.5-VL-3B where no other widths are given: noise around fields
that drift from frame to frame. The peak is that of the process, libraries and features included.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.measure import save
from mmtok.hub.images import EncodedVision, Layout
from mmtok.hub.objective import CoverageRows
from mmtok.hub.options import PruningOptions
from mmtok.hub.selection import select

HIDDEN, RAW, WORDS = 2048, 1280, 8


def encoded(frames: int, tokens: int, hidden: int, raw: int) -> EncodedVision:
    """A video of so many frames, each of so many tokens."""
    generator = torch.Generator().manual_seed(frames)

    def drawn(width: int) -> torch.Tensor:
        made, field = [], torch.randn(tokens, width, generator=generator)
        for _ in range(frames):
            field = 0.95 * field + 0.3 * torch.randn(tokens, width, generator=generator)
            made.append((field + 0.5 * torch.randn(tokens, width, generator=generator)).bfloat16())
        return torch.cat(made)

    layout = Layout.of(
        torch.arange(frames * tokens), crops=frames, tokens_per_crop=tokens, columns=tokens, is_video=True
    )
    return EncodedVision([drawn(hidden)], [drawn(raw)], [layout])


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(frames: int, tokens: int, budget: int, hidden: int = HIDDEN, raw: int = RAW) -> dict[str, Any]:
    """One selection.

    Args:
        frames, tokens: of the video.
        budget: tokens to keep of each frame.
        hidden, raw: widths of the features.
    """
    video = encoded(frames, tokens, hidden, raw)
    text = torch.randn(1, WORDS, hidden, generator=torch.Generator().manual_seed(1))
    options = PruningOptions(vision_token_budget=budget, budget_scope="video", text_temperature=0.01)
    lengths: list[int] = []
    read = CoverageRows.read

    def counted(rows: CoverageRows, which: torch.Tensor) -> torch.Tensor:
        lengths.append(len(which))
        return read(rows, which)

    before, start = megabytes(), time.process_time()
    with patch.object(CoverageRows, "read", counted):
        chosen = select(video, text, torch.ones(1, WORDS, dtype=torch.bool), options)
    return {
        "tokens": frames * tokens,
        "kept": int(chosen.flags.sum()),
        "frames_without_a_token": int((chosen.flags.view(frames, tokens).sum(1) == 0).sum()),
        "processor_seconds": round(time.process_time() - start, 1),
        "rows_read_per_token": round(sum(lengths) / (frames * tokens), 2),
        "megabytes_before": round(before),
        "megabytes_at_most": round(megabytes()),
        "megabytes_of_the_matrix": round((frames * tokens) ** 2 * 4 / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=250, help="of a frame")
    parser.add_argument("--budget", type=int, default=12, help="tokens kept of a frame, on average")
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--raw", type=int, default=RAW)
    parser.add_argument("--output", default="video-memory-wide", help="name of the file in benchmarks/results")
    options = parser.parse_args()
    given = {name: value for name, value in vars(options).items() if name != "output"}
    print(save(options.output, {**given, **measured(**given)}, "mmtok"))


if __name__ == "__main__":
    main()
