"""A small LLaVA that knows 58 everyday objects of COCO, and the scenes that it learns from.

catalogue, sprites, backgrounds, scenes, questions   what is drawn and asked
vocabulary, architecture                             the words and the untrained model
restyle, sight, conversations, language, tuning      the stages of training
loop, export, train                                  seeded and resumable training (a command)
held_out, picks, evaluate                            what the model is measured with (a command)
rasterise                                            the sprite sheets, from icon sets (a command)
readme_image                                         one scene, two questions, fewer and fewer tokens (a command)
checkpoint                                           the trained model
"""
