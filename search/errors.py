"""Everything that can go wrong, as one tree of exceptions.

The tree is shared by all packages: the server raises these types, the wire carries their `reason` in a
`google.rpc.ErrorInfo`, and the client raises the same type again (`clients.wire.errors` does the translation).
They are grouped by what the caller does about them.

    SupernetRegistryError
    ├── InvalidInput                 correct the request; it will never succeed as it is    INVALID_ARGUMENT
    │   ├── InvalidArgument            INVALID_ARGUMENT       a field is missing or out of range
    │   ├── InvalidDataset             INVALID_DATASET        images, labels or splits cannot be used
    │   ├── InvalidSearchSpace         INVALID_SEARCH_SPACE   unknown family, or sizes out of range
    │   ├── InvalidSketch              INVALID_SKETCH         not a sketch, or of an unknown wire version
    │   ├── InvalidPageToken           INVALID_PAGE_TOKEN     not ours, or of another query
    │   ├── RequestIdReused            REQUEST_ID_REUSED      same request_id, other body
    │   ├── EncoderMismatch            ENCODER_MISMATCH       sketches of different encoders do not compare
    │   ├── DimensionMismatch          DIMENSION_MISMATCH     arrays whose shapes do not fit each other
    │   ├── NotFinite                  NOT_FINITE             NaN or infinity where a number is needed
    │   ├── UnsafeWeights              UNSAFE_WEIGHTS         not safetensors, or not what it declares
    │   ├── WeightsTooLarge            WEIGHTS_TOO_LARGE      above the configured limit
    │   └── DigestMismatch             DIGEST_MISMATCH        bytes do not hash to the declared digest
    ├── MissingResource              create it first, or correct the name                   NOT_FOUND
    │   └── NotFound                   NOT_FOUND
    ├── Conflict                     read again, decide again                               ABORTED
    │   ├── HeadMoved                  HEAD_MOVED             another write-back was first
    │   ├── ETagMismatch               ETAG_MISMATCH          the resource changed since it was read
    │   ├── LeaseLost                  LEASE_LOST             another attempt owns the job now
    │   └── AlreadyExists              ALREADY_EXISTS         (ALREADY_EXISTS) choose another name
    ├── NotPossibleNow               change the state of the system first                   FAILED_PRECONDITION
    │   ├── SpaceMismatch              SPACE_MISMATCH         versions of another search space
    │   ├── ImagesMissing              IMAGES_MISSING         upload the images, or run the job with `--here`
    │   ├── StillReferenced            STILL_REFERENCED       delete what refers to it first
    │   ├── JobFinished                JOB_FINISHED           the job has already ended
    │   ├── SchemaMismatch             SCHEMA_MISMATCH        run `supernet-registry db upgrade`, or a newer release
    │   ├── ProtocolMismatch           PROTOCOL_MISMATCH      use a client and a server of the same release
    │   ├── OptionalDependency         OPTIONAL_DEPENDENCY    install the named extra
    │   └── UploadIncomplete           UPLOAD_INCOMPLETE      bytes are missing; ask QueryUpload and go on
    ├── WrongOffset                  WRONG_OFFSET           ask QueryUpload, go on from there   OUT_OF_RANGE
    ├── TryLater                     wait, then send the same again                         RESOURCE_EXHAUSTED
    │   ├── DiskFull                   DISK_FULL
    │   ├── QuotaExceeded              QUOTA_EXCEEDED
    │   ├── TooManyRequests            TOO_MANY_REQUESTS
    │   ├── Draining                   DRAINING               (UNAVAILABLE) the server is shutting down
    │   └── Unavailable                UNAVAILABLE            (UNAVAILABLE) no server answers at the address
    ├── DeadlineExceeded             DEADLINE_EXCEEDED      give it more time                   DEADLINE_EXCEEDED
    ├── BlobCorrupt                  BLOB_CORRUPT           restore it; never retried           DATA_LOSS
    ├── Forbidden                    who you are does not allow it
    │   ├── Unauthenticated            UNAUTHENTICATED        (UNAUTHENTICATED) send a token
    │   └── PermissionDenied           PERMISSION_DENIED      (PERMISSION_DENIED) ask for the role
    ├── SearchFailed                 the search itself failed (recorded on the job)         ABORTED
    │   ├── SearchDiverged             SEARCH_DIVERGED        loss became NaN or infinite
    │   ├── NotEnoughMemory            NOT_ENOUGH_MEMORY      a step of two images does not fit the device
    │   └── SearchCancelled            SEARCH_CANCELLED
    └── InternalError                INTERNAL               a bug; quote the incident id        INTERNAL
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

__all__ = [
    "AlreadyExists",
    "BlobCorrupt",
    "Conflict",
    "DeadlineExceeded",
    "DigestMismatch",
    "DimensionMismatch",
    "DiskFull",
    "Draining",
    "ETagMismatch",
    "EncoderMismatch",
    "Forbidden",
    "HeadMoved",
    "ImagesMissing",
    "InternalError",
    "InvalidArgument",
    "InvalidDataset",
    "InvalidInput",
    "InvalidPageToken",
    "InvalidSearchSpace",
    "InvalidSketch",
    "JobFinished",
    "LeaseLost",
    "MissingResource",
    "NotEnoughMemory",
    "NotFinite",
    "NotFound",
    "NotPossibleNow",
    "OptionalDependency",
    "PermissionDenied",
    "ProtocolMismatch",
    "QuotaExceeded",
    "RequestIdReused",
    "SchemaMismatch",
    "SearchCancelled",
    "SearchDiverged",
    "SearchFailed",
    "SpaceMismatch",
    "StillReferenced",
    "SupernetRegistryError",
    "TooManyRequests",
    "TryLater",
    "Unauthenticated",
    "Unavailable",
    "UnsafeWeights",
    "UploadIncomplete",
    "WeightsTooLarge",
    "WrongOffset",
    "error_types",
]


class SupernetRegistryError(Exception):
    """Base of all errors of this project.

    Args:
        message: one sentence on what is wrong, with the offending value.
        remedy: one sentence on what to do about it.
        field: path of the offending request field (``dataset.sketch``), where there is one.
        retry_after_s: seconds after which the same request may succeed, where that is known.
        metadata: further machine-readable facts; keys in lowerCamelCase or snake_case, values are strings.
    """

    reason: ClassVar[str] = "UNKNOWN"
    """Machine-readable reason, `[A-Z][A-Z0-9_]+` (AIP-193)."""
    code: ClassVar[str] = "UNKNOWN"
    """Name of the gRPC status code."""
    exit_code: ClassVar[int] = 1
    """Exit code of the command line."""

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        field: str = "",
        retry_after_s: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        what_to_do = f" {self.remedy}" if self.remedy else ""
        return f"{where}{self.message}{what_to_do}"


class InvalidInput(SupernetRegistryError):
    code = "INVALID_ARGUMENT"
    exit_code = 2


class InvalidArgument(InvalidInput):
    reason = "INVALID_ARGUMENT"


class InvalidDataset(InvalidInput):
    reason = "INVALID_DATASET"


class InvalidSearchSpace(InvalidInput):
    reason = "INVALID_SEARCH_SPACE"


class InvalidSketch(InvalidInput):
    reason = "INVALID_SKETCH"


class InvalidPageToken(InvalidInput):
    reason = "INVALID_PAGE_TOKEN"


class RequestIdReused(InvalidInput):
    reason = "REQUEST_ID_REUSED"


class EncoderMismatch(InvalidInput):
    reason = "ENCODER_MISMATCH"


class DimensionMismatch(InvalidInput):
    reason = "DIMENSION_MISMATCH"


class NotFinite(InvalidInput):
    reason = "NOT_FINITE"


class UnsafeWeights(InvalidInput):
    reason = "UNSAFE_WEIGHTS"


class WeightsTooLarge(InvalidInput):
    reason = "WEIGHTS_TOO_LARGE"


class DigestMismatch(InvalidInput):
    reason = "DIGEST_MISMATCH"


class MissingResource(SupernetRegistryError):
    code = "NOT_FOUND"
    exit_code = 3


class NotFound(MissingResource):
    reason = "NOT_FOUND"


class Conflict(SupernetRegistryError):
    code = "ABORTED"
    exit_code = 4


class HeadMoved(Conflict):
    reason = "HEAD_MOVED"


class ETagMismatch(Conflict):
    reason = "ETAG_MISMATCH"


class LeaseLost(Conflict):
    reason = "LEASE_LOST"


class AlreadyExists(Conflict):
    reason = "ALREADY_EXISTS"
    code = "ALREADY_EXISTS"


class NotPossibleNow(SupernetRegistryError):
    code = "FAILED_PRECONDITION"
    exit_code = 5


class SpaceMismatch(NotPossibleNow):
    reason = "SPACE_MISMATCH"


class ImagesMissing(NotPossibleNow):
    reason = "IMAGES_MISSING"


class StillReferenced(NotPossibleNow):
    reason = "STILL_REFERENCED"


class JobFinished(NotPossibleNow):
    reason = "JOB_FINISHED"


class SchemaMismatch(NotPossibleNow):
    reason = "SCHEMA_MISMATCH"


class ProtocolMismatch(NotPossibleNow):
    reason = "PROTOCOL_MISMATCH"


class OptionalDependency(NotPossibleNow):
    reason = "OPTIONAL_DEPENDENCY"


class UploadIncomplete(NotPossibleNow):
    reason = "UPLOAD_INCOMPLETE"


class WrongOffset(SupernetRegistryError):
    reason = "WRONG_OFFSET"
    code = "OUT_OF_RANGE"
    exit_code = 4


class TryLater(SupernetRegistryError):
    code = "RESOURCE_EXHAUSTED"
    exit_code = 6


class DiskFull(TryLater):
    reason = "DISK_FULL"


class QuotaExceeded(TryLater):
    reason = "QUOTA_EXCEEDED"


class TooManyRequests(TryLater):
    reason = "TOO_MANY_REQUESTS"


class Draining(TryLater):
    reason = "DRAINING"
    code = "UNAVAILABLE"


class Unavailable(TryLater):
    reason = "UNAVAILABLE"
    code = "UNAVAILABLE"


class DeadlineExceeded(SupernetRegistryError):
    reason = "DEADLINE_EXCEEDED"
    code = "DEADLINE_EXCEEDED"
    exit_code = 6


class BlobCorrupt(SupernetRegistryError):
    reason = "BLOB_CORRUPT"
    code = "DATA_LOSS"
    exit_code = 7


class Forbidden(SupernetRegistryError):
    exit_code = 8


class Unauthenticated(Forbidden):
    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class PermissionDenied(Forbidden):
    reason = "PERMISSION_DENIED"
    code = "PERMISSION_DENIED"


class SearchFailed(SupernetRegistryError):
    reason = "SEARCH_FAILED"
    code = "ABORTED"
    exit_code = 9


class SearchDiverged(SearchFailed):
    reason = "SEARCH_DIVERGED"


class NotEnoughMemory(SearchFailed):
    reason = "NOT_ENOUGH_MEMORY"


class SearchCancelled(SearchFailed):
    reason = "SEARCH_CANCELLED"


class InternalError(SupernetRegistryError):
    reason = "INTERNAL"
    code = "INTERNAL"
    exit_code = 70


def error_types() -> dict[str, type[SupernetRegistryError]]:
    """Every concrete error type by its wire reason."""

    def walk(root: type[SupernetRegistryError]) -> Iterator[type[SupernetRegistryError]]:
        yield root
        for child in root.__subclasses__():
            yield from walk(child)

    return {cls.reason: cls for cls in walk(SupernetRegistryError) if "reason" in vars(cls)}
