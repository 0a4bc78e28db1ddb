"""What the trainings of the embedded models share.

loop      a stage: seeded, resumable, in one process or several
folder    the checkpoint folder, in the layout of the published ones
"""
