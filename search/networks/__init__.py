"""Modules: the supernet, its operations, and how stored tensors become networks."""
