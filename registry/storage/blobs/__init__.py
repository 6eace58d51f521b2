"""Content-addressed stores of bytes: one file a store."""
