"""What people run on a model: questions, batches, timing, pictures, a page; each is one module."""
