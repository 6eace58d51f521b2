"""Bytes of weights, sketches, images and checkpoints: one container, checked before anything is allocated. Imports no
torch."""
