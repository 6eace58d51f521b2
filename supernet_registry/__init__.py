"""Supernet Registry: architecture searches that start from what earlier ones learnt."""
