"""How much of the answers survives pruning, measured on rendered scenes: `python -m benchmarks.quality`.

In the order in which the modules build on each other:

    crops         the embedded model in the layout of LLaVA-NeXT, trained further for five crops
    evidence      what a selection keeps of the object asked for
    raw_cosine    selectors of the ablation
    cases         which methods are compared on which images and at which budgets
    runs          a case from images to results
    plots         figures of docs/reports/quality.md
"""
