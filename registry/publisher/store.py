"""Where MLflow keeps its data, and how to connect to it without its defaults getting in the way."""

from __future__ import annotations

import logging
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["TrackingStore", "connect", "set_environment", "tracking_store"]

REQUEST_TIMEOUT_S = 5
"""One request to a hanging server blocks the publisher this long, and nothing else at all."""


@dataclass(frozen=True, slots=True)
class TrackingStore:
    """An MLflow backend: the embedded one in the data folder, or any tracking server.

    Attributes:
        uri: MLflow tracking (and model registry) URI.
        artifact_root: folder that holds the artifacts of an embedded or database store. None where a tracking server
            decides about them itself.
    """

    uri: str
    artifact_root: Path | None

    @property
    def ui_command(self) -> str:
        """What to type (or, for a tracking server, to open) to see the runs."""
        if self.artifact_root is None:
            return self.public_uri
        return f"mlflow ui --backend-store-uri {shlex.quote(self.public_uri)}"

    @property
    def public_uri(self) -> str:
        """The URI without user name and password, fit for logs."""
        return re.sub(r"//[^/@]*@", "//", self.uri)

    def artifact_location(self, experiment: str) -> str | None:
        """Artifact URI of a new experiment; None for the tracking server's own choice.

        Without one, MLflow would write to `./mlruns` under whatever folder the process was started in.
        """
        if self.artifact_root is None:
            return None
        return (self.artifact_root / re.sub(r"[^\w.-]", "_", experiment)).as_uri()


def tracking_store(data_dir: Path, uri: str | None = None) -> TrackingStore:
    """The store at `uri`, or the embedded SQLite store in `data_dir`/mlflow."""
    folder = data_dir.resolve() / "mlflow"
    if uri is None:
        return TrackingStore(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    return TrackingStore(uri, None if uri.startswith(("http://", "https://")) else folder / "artifacts")


def set_environment() -> None:
    """Make MLflow fail fast, never retry by itself and report to nobody; it reads part of this when it is imported."""
    # MLflow's own 7 retries block one call for about 4 minutes when its server is down; ours is the only back-off.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT_S))
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # Asynchronous logging drops failed batches silently; synchronous calls are what the cursor relies on.
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"


def connect(store: TrackingStore) -> MlflowClient:
    """A client of `store`. A database store gets its tables here, which takes seconds the first time."""
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    if store.uri.startswith("sqlite:///"):
        Path(store.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)
