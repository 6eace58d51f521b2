"""Encoders: fixed maps from images to feature vectors, one file each."""
