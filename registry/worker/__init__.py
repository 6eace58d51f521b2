"""The worker process: searches one job at a time, as a gRPC client."""
