"""Training and measuring the small Qwen2.5-VL that comes with the package; `mmtok.tiny.reading` draws and asks.

architecture                  the untrained model and its checkpoint folder
truth                         what every vision token of a scene shows
conversations, learners       the three stages of training
train                         seeded and resumable training (a command)
evaluate, resolution          answers about fresh scenes; shrinking against pruning (commands)
"""
