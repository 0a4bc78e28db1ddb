"""Training the small LLaVA that comes with the package; `mmtok.tiny` draws and asks.

architecture                                the untrained model and its checkpoint folder
sight, conversations, language, tuning      the stages of training
train                                       seeded and resumable training (a command)
held_out                                    what the model is measured with, by `benchmarks.quality`
"""
