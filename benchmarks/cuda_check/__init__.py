"""What runs on a CUDA device, and how fast: one script of at most eight minutes."""
