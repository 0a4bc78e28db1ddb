"""Training and measuring the small LLaVA that comes with the package; `mmtok.tiny` draws and asks.

vocabulary, architecture                             the words and the untrained model
restyle, sight, conversations, language, tuning      the stages of training
loop, export, train                                  seeded and resumable training (a command)
held_out                                             what the model is measured with, by `benchmarks.quality`
"""
