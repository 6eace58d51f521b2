"""The resources of the registry as frozen dataclasses: what clients get, and what the server's catalog holds.

Each class mirrors the protobuf message of the same name (`protos/supernet_registry/v1`, where every field is
explained); `clients.wire.convert` translates by field name, and a test holds the two against each other. Accuracies are
fractions in [0, 1], times are timezone-aware UTC, durations are seconds, an empty string means "none",
and a figure that was not measured is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from supernet_registry.search.results import NEAREST

__all__ = [
    "GAIN",
    "AbandonOutcome",
    "ClassCoupling",
    "Cost",
    "Dataset",
    "DatasetMap",
    "DatasetPoint",
    "Encoder",
    "EpochMetrics",
    "Executor",
    "GeneralistWork",
    "JobError",
    "JobEvent",
    "JobState",
    "Lease",
    "Lineage",
    "LineageEdge",
    "Metrics",
    "NearestSources",
    "Parent",
    "ParentRole",
    "Phase",
    "Reason",
    "SearchJob",
    "SearchSpec",
    "SearchWork",
    "ShortlistEntry",
    "ShortlistOutcome",
    "SourceCandidate",
    "SourceDecision",
    "SourcePolicy",
    "SpaceDescriptor",
    "Supernet",
    "SupernetVersion",
    "TasteResult",
    "TransferMode",
    "Upload",
]

GAIN = "gain"
"""The signal in `SourceCandidate.predictions` by which a search chooses whom to taste."""


class TransferMode(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    WEIGHTS_AND_ALPHAS = "WEIGHTS_AND_ALPHAS"
    ALPHAS_ONLY = "ALPHAS_ONLY"
    WEIGHTS_ONLY = "WEIGHTS_ONLY"
    SCRATCH = "SCRATCH"


class JobState(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether no other state can follow."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class SourcePolicy(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    AUTO = "AUTO"
    SCRATCH = "SCRATCH"
    VERSION = "VERSION"


class Executor(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    POOL = "POOL"
    CALLER = "CALLER"


class ParentRole(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    SOURCE = "SOURCE"
    PREVIOUS_HEAD = "PREVIOUS_HEAD"


class Phase(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    SEARCH = "SEARCH"
    CHILD = "CHILD"


class AbandonOutcome(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REQUEUE = "REQUEUE"


class ShortlistOutcome(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    CACHED = "CACHED"
    COMPUTED = "COMPUTED"
    PRUNED = "PRUNED"
    LATE = "LATE"
    UNUSABLE = "UNUSABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceDescriptor:
    """A search space on the wire and in the catalog: message `SearchSpace`. `search.spaces` gives it meaning."""

    family: str = ""
    channels: int = 0
    cells: int = 0
    nodes: int = 0
    operations: tuple[str, ...] = ()
    stem_stride: int = 0
    head_pool: int = 0
    resolution: int = 0
    affine_batch_norm: bool = False
    id: str = ""
    partial_channels: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    name: str = "encoder"
    encoder: str = ""
    encoder_id: str = ""
    dimension: int = 0
    sketch_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    name: str = ""
    display_name: str = ""
    digest: str = ""
    encoder_id: str = ""
    sketch_digest: str = ""
    class_count: int = 0
    class_names: tuple[str, ...] = ()
    train_count: int = 0
    val_count: int = 0
    test_count: int = 0
    height: int = 0
    width: int = 0
    channels: int = 0
    images_blob: str = ""
    retain_images: bool = False
    index_sequence: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCoupling:
    rows: int = 0
    columns: int = 0
    mass: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCandidate:
    version: str = ""
    dataset: str = ""
    dataset_display_name: str = ""
    embedding_distance: float = 0.0
    ot_distance: float = 0.0
    ot_converged: bool = False
    tied: bool = False
    same_dataset: bool = False
    quality: float = 0.0
    quality_floor: float = 0.0
    compatible: bool = False
    eligible: bool = False
    reasons: tuple[Reason, ...] = ()
    class_coupling: ClassCoupling | None = None
    predictions: Mapping[str, float] = field(default_factory=dict)
    origin: str = NEAREST


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortlistEntry:
    dataset: str = ""
    dataset_display_name: str = ""
    embedding_distance: float = 0.0
    lower_bound: float = 0.0
    ot_distance: float | None = None
    outcome: ShortlistOutcome = ShortlistOutcome.UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestSources:
    """Answer of a nearest-source query: message `QueryNearestSourcesResponse`."""

    candidates: tuple[SourceCandidate, ...] = ()
    novel: bool = False
    novelty_reason: str = ""
    index_sequence: int = 0
    dataset_count: int = 0
    partial: bool = False
    shortlist_seconds: float = 0.0
    rerank_seconds: float = 0.0
    shortlist: tuple[ShortlistEntry, ...] = ()
    signal_reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPoint:
    dataset: str = ""
    display_name: str = ""
    x: float = 0.0
    y: float = 0.0
    target: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetMap:
    """Datasets on a plane: message `MapDatasetsResponse`."""

    points: tuple[DatasetPoint, ...] = ()
    explained_share: float = 0.0
    index_sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supernet:
    name: str = ""
    description: str = ""
    search_space: SpaceDescriptor | None = None
    head: str = ""
    version_count: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime | None = None
    update_time: datetime | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    version: str = ""
    role: ParentRole = ParentRole.UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    val_accuracy: float = 0.0
    test_accuracy: float = 0.0
    child_val_accuracy: float | None = None  # None where the child network is trained on the validation split as well
    child_test_accuracy: float | None = None
    child_parameters: int | None = None
    alpha_entropy: float = 0.0
    skip_count: int = 0
    child_macs: int | None = None
    child_single_seconds: float | None = None
    child_batch_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    search_steps: int = 0
    taste_steps: int = 0
    child_steps: int = 0
    search_seconds: float = 0.0
    taste_seconds: float = 0.0
    child_seconds: float = 0.0
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetVersion:
    name: str = ""
    weights_blob: str = ""
    weights_size_bytes: int = 0
    child_blob: str = ""
    genotype: str = ""
    dataset: str = ""
    job: str = ""
    parents: tuple[Parent, ...] = ()
    transfer_mode: TransferMode = TransferMode.UNSPECIFIED
    metrics: Metrics | None = None
    cost: Cost | None = None
    search_space: SpaceDescriptor | None = None
    head: bool = False
    create_time: datetime | None = None
    dataset_display_name: str = ""
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageEdge:
    child: str = ""
    parent: Parent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Answer of a lineage query: message `QueryLineageResponse`."""

    versions: tuple[SupernetVersion, ...] = ()
    edges: tuple[LineageEdge, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchWork:
    """A search on one dataset: kind of work `search`."""

    source_policy: SourcePolicy = SourcePolicy.UNSPECIFIED
    source_version: str = ""
    transfer_mode: TransferMode = TransferMode.UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralistWork:
    """The pretraining of a supernet over several datasets: kind of work `generalist`."""

    datasets: tuple[str, ...] = ()
    base_version: str = ""
    without_replay: bool = False


WORK = ("search", "generalist")
"""Kinds of work: the fields of a spec of which exactly one is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """What a job does (one of `WORK`), and how: search space, seed, and fields of the recipe as text by name."""

    search_space: SpaceDescriptor | None = None
    seed: int = 0
    executor: Executor = Executor.UNSPECIFIED
    recipe: Mapping[str, str] = field(default_factory=dict)
    search: SearchWork | None = None
    generalist: GeneralistWork | None = None

    @property
    def kind(self) -> str:
        """Which kind of work it is; empty where none is named."""
        return next((name for name in WORK if getattr(self, name) is not None), "")

    @property
    def datasets(self) -> tuple[str, ...]:
        """Datasets of a generalist; empty where the job has one, its own."""
        return self.generalist.datasets if self.generalist is not None else ()

    @property
    def source_version(self) -> str:
        """The version that the spec itself names to start from; empty where it names none."""
        if self.generalist is not None:
            return self.generalist.base_version
        return self.search.source_version if self.search is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteResult:
    version: str = ""
    ot_distance: float | None = None
    steps: tuple[int, ...] = ()
    val_accuracies: tuple[float, ...] = ()
    val_losses: tuple[float, ...] = ()
    chosen: bool = False
    reason: str = ""
    loss_gain: float = 0.0
    loss_gain_error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDecision:
    source: str = ""
    transfer_mode: TransferMode = TransferMode.UNSPECIFIED
    reason: str = ""
    ot_distance: float | None = None
    novel: bool = False
    tastes: tuple[TasteResult, ...] = ()
    taste_steps: int = 0
    taste_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    phase: Phase = Phase.UNSPECIFIED
    epoch: int = 0
    epochs: int = 0
    steps: int = 0
    train_loss: float = 0.0
    train_accuracy: float = 0.0
    val_loss: float | None = None
    val_accuracy: float | None = None
    alpha_entropy: float = 0.0
    skip_count: int = 0
    learning_rate: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    name: str = ""
    supernet: str = ""
    dataset: str = ""
    spec: SearchSpec | None = None
    stream: str = ""
    stream_step: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    state: JobState = JobState.UNSPECIFIED
    attempt: int = 0
    worker: str = ""
    decision: SourceDecision | None = None
    progress: EpochMetrics | None = None
    version: str = ""
    head_moved: bool = False
    error: JobError | None = None
    last_sequence: int = 0
    create_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    etag: str = ""
    dataset_display_name: str = ""
    base_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to a job; exactly one of `state`, `epoch`, `decision`, `message` is set."""

    sequence: int = 0
    job: str = ""
    time: datetime | None = None
    state: JobState | None = None
    epoch: EpochMetrics | None = None
    decision: SourceDecision | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    job: str = ""
    fence: int = 0
    expire_time: datetime | None = None
    duration_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    name: str = ""
    blob: str = ""
    size_bytes: int = 0
    persisted_size_bytes: int = 0
    complete: bool = False
