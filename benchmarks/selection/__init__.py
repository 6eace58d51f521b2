"""Which source is chosen, and what that costs."""
