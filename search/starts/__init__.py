"""Where a search begins: transfer, prototype heads, the taste."""
