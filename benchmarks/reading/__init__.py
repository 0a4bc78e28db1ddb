"""Training and measuring the small Qwen2.5-VL that comes with the package; `mmtok.tiny.reading` draws and asks.

vocabulary, architecture      the tokens and the untrained model
truth                         what every vision token of a scene shows
learners                      the three stages of training
export, train                 the checkpoint folder; seeded and resumable training (a command)
evaluate                      answers about fresh scenes (a command)
"""
