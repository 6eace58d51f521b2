"""Streams of tasks through the real service."""
