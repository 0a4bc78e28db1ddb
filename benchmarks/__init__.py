"""What is measured and trained beside the package: the embedded model, answer quality, speed."""
