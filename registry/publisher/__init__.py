"""Keeps MLflow in step with the registry, from a process of its own: one MLflow call can block for minutes.

experiment = task stream, run = search job, registered model = supernet, model version = version, alias `head` = head.
The catalog's outbox says what has changed; MLflow is never asked for anything that the registry decides on.

    python -m supernet_registry.registry.publisher --data-dir DIR [--tracking-uri URI] [--once] [--rebuild]
    [--parent-pid PID]
"""

from __future__ import annotations

from supernet_registry.registry.publisher.store import TrackingStore, set_environment, tracking_store

__all__ = ["TrackingStore", "tracking_store"]

# Here, because this runs before any module of the package imports MLflow.
set_environment()
