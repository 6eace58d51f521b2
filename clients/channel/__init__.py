"""How it travels: calls, connection, retries, watches, blobs."""
