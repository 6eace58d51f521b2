"""What both ends say: resources, errors, and their translation. The only room that catalog and server import."""
