"""Exact transports in processes of their own."""
