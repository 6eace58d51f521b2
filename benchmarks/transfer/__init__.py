"""What a warm start gains."""
