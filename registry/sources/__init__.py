"""Which stored version a search should start from."""
