"""The one training loop, its strategies, and what a step needs."""
