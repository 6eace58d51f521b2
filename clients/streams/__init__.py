"""Continual task streams: description, runner, results."""
