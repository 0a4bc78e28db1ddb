"""How much of the answers survives pruning, measured on rendered scenes: `python -m benchmarks.quality`."""
