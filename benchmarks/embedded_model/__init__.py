"""The training of the small LLaVA in `mmtok/tiny/checkpoint`: `python -m benchmarks.embedded_model.training`.

In the order in which the modules build on each other, and on `mmtok.tiny.scenes` and `mmtok.tiny.questions`:

    vocabulary    the words, the tokenizer, the chat template
    architecture  the untrained model
    samples       training conversations and batches
    stages        what learns from what
    export        the checkpoint folder, in the llava-hf layout
    held_out      held-out accuracy per selector and budget (a command)
    report        what was run where, and what came out
    training      the seeded, resumable loop over all of this (a command)
"""
