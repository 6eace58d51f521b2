"""Settings of the registry's processes: keyword arguments first, then the environment, then these defaults.

Every option can be given as an environment variable `SUPERNET_REGISTRY_<OPTION>`, e.g.
`SUPERNET_REGISTRY_DATA_DIR=/srv/supernets`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from supernet_registry.search.errors import InvalidArgument

__all__ = ["GIB", "MIB", "Settings", "load_settings"]

MIB = 1024 * 1024
GIB = 1024 * MIB

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseSettings):
    """Options of server, supervisor and publisher. Immutable; units are in the names."""

    model_config = SettingsConfigDict(env_prefix="SUPERNET_REGISTRY_", frozen=True, extra="forbid")

    data_dir: Path = Path("registry-data")
    """Folder of everything that the registry keeps on this machine: database, blobs, unfinished uploads, locks."""

    database_url: str = ""
    """SQLAlchemy URL of the database; empty for a SQLite file in `data_dir`. PostgreSQL: `postgresql://...`."""

    address: str = "127.0.0.1:50551"
    """Where the server listens: `host:port` (port 0 for any free one) or `unix:/path/of/socket`."""

    encoder: str = "pixels"
    """Encoder whose sketches this registry compares: `pixels` or `torchvision:<model>`."""

    encoder_id: str = ""
    """Id of the encoder; required for `torchvision:`, which the server does not load; else checked if given."""

    encoder_dimension: Annotated[int, Field(ge=0)] = 0
    """Features of the encoder; required for `torchvision:`."""

    # Nearest-source queries
    shortlist_size: Annotated[int, Field(ge=1, le=256)] = 16
    """Datasets that the index hands to the exact transport for re-ranking, unless the query says otherwise."""

    tie_band: Share = 0.04
    """Candidates whose OT distance is within this share of the nearest one's are called tied."""

    transport_processes: Annotated[int, Field(ge=0, le=64)] | None = None
    """Processes that solve exact transports, about 100 MB each; 0 solves them in the server, one at a time. None for
    one a core, at most 8, and 0 where there is one core only."""

    # Jobs
    lease_seconds: PositiveFloat = 30.0
    """A worker that has not renewed its lease for so long is taken for dead; workers renew every third of it."""

    max_attempts: PositiveInt = 3
    """A job whose worker has died so often is failed instead of queued again."""

    # Limits
    max_weights_bytes: PositiveInt = 2 * GIB
    """Largest weights blob that a version may have."""

    max_weights_tensors: PositiveInt = 20_000
    """Most tensors in a weights blob; a hostile header could otherwise declare millions."""

    max_upload_bytes: PositiveInt = 8 * GIB
    """Largest blob of any kind."""

    max_pending_upload_bytes: PositiveInt = 64 * GIB
    """Declared bytes of all unfinished uploads together; above it StartUpload answers QUOTA_EXCEEDED."""

    # What is kept, and for how long
    blob_grace_seconds: Seconds = 24 * 3600.0
    """An unreferenced blob is kept for so long after it was last put or asked for."""

    images_grace_seconds: Seconds = 3600.0
    """Images that nobody retains and no unfinished job needs are kept for so long after they were attached."""

    upload_ttl_seconds: Seconds = 24 * 3600.0
    """An upload without a new chunk for so long is dropped."""

    sweep_interval_seconds: PositiveFloat = 600.0
    """Pause between two sweeps of what is no longer needed."""

    # The server process
    rpc_threads: PositiveInt = 16
    """Threads that run catalog calls."""

    slow_rpc_threads: PositiveInt = 8
    """Threads that run nearest-source queries, checks of sketches and weights, and blob transfers."""

    drain_seconds: Seconds = 10.0
    """After SIGTERM, running calls get so long to finish."""

    reflection: bool = False
    """Whether the server answers gRPC reflection."""

    # Access; without these the server binds to loopback and unix sockets only
    tls_certificate: Path | None = None
    """PEM chain of the server."""

    tls_key: Path | None = None
    """PEM private key of the server."""

    tokens_file: Path | None = None
    """Text file with a line `NAME ROLE SHA256` for each token; see `registry.server.auth`."""

    # MLflow
    mlflow_tracking_uri: str | None = None
    """Tracking server that the publisher feeds; None for a SQLite store in `data_dir`."""

    @model_validator(mode="after")
    def _tls_files_come_in_pairs(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidArgument(
                "Only one of TLS certificate and TLS key is set.",
                remedy="Set both tls_certificate and tls_key, or neither.",
                field="tls_certificate",
            )
        return self

    @property
    def resolved_database_url(self) -> str:
        """`database_url`, or the SQLite file in `data_dir`."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'registry.sqlite').absolute()}"

    @property
    def blobs_dir(self) -> Path:
        """Root of the local blob store."""
        return self.data_dir / "blobs"

    @property
    def uploads_dir(self) -> Path:
        """Unfinished uploads; on the file system of `blobs_dir`, so that finishing one is a rename."""
        return self.data_dir / "uploads"


def load_settings(**given: Any) -> Settings:
    """Settings from keyword arguments and the environment.

    Raises:
        InvalidArgument: an option has a value that it cannot have; `field` names it.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(
            f"{first['msg']}, not {first['input']!r}.",
            field=option,
            remedy=f"Correct the option or the variable SUPERNET_REGISTRY_{option.upper()}.",
        ) from error
