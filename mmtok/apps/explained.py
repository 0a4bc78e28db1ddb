"""What the numbers of the demo, the timings and the page mean, in plain words."""

from __future__ import annotations

COVERAGE = (
    "Coverage says how well the kept vision tokens stand in for all of them: for each word of the question and each "
    "part of the image, how similar the nearest kept token is. All tokens have 100%. It is what the method maximises, "
    "and no accuracy: an answer can be wrong at a high coverage."
)

TIMES = (
    "Times are those of a question about an image that has been encoded: the vision tower runs once for all answers "
    "and is in none of them."
)

# Model: (vision tokens kept, of how many, how many times earlier the first token comes), of docs/reports/speed.md.
SPEEDUPS = {"LLaVA-1.5-7B": (64, 576, 4.6), "LLaVA-NeXT-7B": (160, 2880, 10.0)}

TOO_SMALL = (
    "The embedded model is too small for pruning to pay: choosing the tokens takes about as long as reading them. In "
    "the shapes of real models, on two CPU cores, the first token comes "
    + " and ".join(
        f"{times} times earlier with {kept} of {total:,} vision tokens ({model})"
        for model, (kept, total, times) in SPEEDUPS.items()
    )
    + ". docs/reports/speed.md has all of it."
)
