"""Benchmarks: every claim of speed or quality, to be measured again."""
