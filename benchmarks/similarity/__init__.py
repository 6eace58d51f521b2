"""Encoders, sketches, transport, index and query."""
