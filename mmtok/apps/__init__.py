"""What people run on a model: questions, batches, timing, drawings, a page; each is one module."""
