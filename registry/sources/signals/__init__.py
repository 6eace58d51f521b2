"""What the registry predicts of a candidate: one file a signal."""
