"""How much of the answers survives pruning, measured on rendered scenes: `python -m benchmarks.quality`.

In the order in which the modules build on each other:

    crops_reader      the embedded model in the layout of LLaVA-NeXT
    crops_training    its language model trained further for five crops
    evidence          what a selection keeps of the object asked for
    raw_cosine        selectors of the ablation
    cases             which methods are compared on which images and at which budgets
    runs              a case from images to results
    findings, tables, plots, report   docs/quality.md and its figures, from the results and page.md
    later_rules, token_sizes, crop_sharing, later_runs   trials of what was published after MMTok, for docs/fidelity.md
    trained           a newly trained model beside the embedded one
"""
