"""How much of the answers survives pruning, measured on rendered scenes: `python -m benchmarks.quality`.

scene_sets        questions about rendered scenes, in POPE's format
cases             which methods are compared on which images and at which budgets
crops_reader      the embedded model taught to read five crops
relations_reader  the same to read relations between objects (with relations_samples)
place_probe       whether vision tokens say where in the image they were
evidence          what a selection keeps of the object asked for
raw_cosine, shared_budget   selectors of the ablations
runs              a case from images to results
plots, tables, report       docs/quality.md and its figures, from the results and page.md
"""
