"""Resource names: how they are built, and how a request's names are read.

Every reader takes the path of the request field, so that a malformed name is reported where it stands. A malformed
name is InvalidArgument; a well-formed name of nothing is NotFound, raised by whoever looked.
"""

from __future__ import annotations

import re
from typing import Literal

from supernet_registry.search.errors import InvalidArgument, NotFound

__all__ = [
    "SUPERNET_ID",
    "blob_name",
    "blob_sha256",
    "dataset_id",
    "dataset_name",
    "job_id",
    "job_name",
    "not_found",
    "supernet_id",
    "supernet_name",
    "upload_id",
    "upload_name",
    "version_key",
    "version_name",
]

SUPERNET_ID = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")

_DATASET = re.compile(r"datasets/([0-9a-f]{32})")
_SUPERNET = re.compile(rf"supernets/({SUPERNET_ID.pattern})")
_VERSION = re.compile(rf"supernets/(?P<id>{SUPERNET_ID.pattern})/versions/(?P<number>head|[1-9][0-9]{{0,17}})")
_JOB = re.compile(r"searchJobs/([0-9a-f]{16})")
_BLOB = re.compile(r"blobs/([0-9a-f]{64})")
_UPLOAD = re.compile(r"uploads/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")


def dataset_name(digest: str) -> str:
    """`datasets/{id}` from a digest or an id."""
    return f"datasets/{digest[:32]}"


def dataset_id(name: str, field: str = "name") -> str:
    """Id in `datasets/{id}`."""
    return _read(_DATASET, name, field, "datasets/{32 hexadecimal digits}")


def supernet_name(supernet_id: str) -> str:
    """`supernets/{id}`."""
    return f"supernets/{supernet_id}"


def supernet_id(name: str, field: str = "name") -> str:
    """Id in `supernets/{id}`."""
    return _read(_SUPERNET, name, field, "supernets/{id}, the id in lower case, digits, `_`, `.` or `-`")


def version_name(supernet_id: str, number: int) -> str:
    """`supernets/{id}/versions/{n}`."""
    return f"supernets/{supernet_id}/versions/{number}"


def version_key(name: str, field: str = "name") -> tuple[str, int | Literal["head"]]:
    """(supernet id, number or "head") in `supernets/{id}/versions/{n}`."""
    match = _VERSION.fullmatch(name)
    if match is None:
        raise _malformed(name, field, "supernets/{id}/versions/{number} or supernets/{id}/versions/head")
    number = match["number"]
    return match["id"], "head" if number == "head" else int(number)


def job_name(job_id: str) -> str:
    """`searchJobs/{id}`."""
    return f"searchJobs/{job_id}"


def job_id(name: str, field: str = "name") -> str:
    """Id in `searchJobs/{id}`."""
    return _read(_JOB, name, field, "searchJobs/{16 hexadecimal digits}")


def blob_name(sha256: str) -> str:
    """`blobs/{sha256}`."""
    return f"blobs/{sha256}"


def blob_sha256(name: str, field: str = "name") -> str:
    """Digest in `blobs/{sha256}`."""
    return _read(_BLOB, name, field, "blobs/{sha256 in 64 lower-case hexadecimal digits}")


def upload_name(upload_id: str) -> str:
    """`uploads/{uuid}`."""
    return f"uploads/{upload_id}"


def upload_id(name: str, field: str = "name") -> str:
    """UUID in `uploads/{uuid}`."""
    return _read(_UPLOAD, name, field, "uploads/{uuid}")


def not_found(name: str, field: str = "name", remedy: str = "Check the name.") -> NotFound:
    """The error for a well-formed name of nothing."""
    return NotFound(f"{name} does not exist.", remedy=remedy, field=field, metadata={"resource": name})


def _read(pattern: re.Pattern[str], name: str, field: str, form: str) -> str:
    match = pattern.fullmatch(name)
    if match is None:
        raise _malformed(name, field, form)
    return match[1]


def _malformed(name: str, field: str, form: str) -> InvalidArgument:
    shown = name if len(name) <= 200 else name[:200] + "…"
    return InvalidArgument(f"{shown!r} is not a resource name here.", remedy=f"Give {form}.", field=field)
