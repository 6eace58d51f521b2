"""Does knowledge build up? Streams run under several policies through real services, and judged.

    plan ──► units (one policy, one stream, one seed each) ──► runs ──► summary ──► report, MLflow

`supernet-registry evaluate` and `python -m benchmarks continual` are its two faces.
"""
