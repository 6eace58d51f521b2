"""Whole jobs from data to result."""
