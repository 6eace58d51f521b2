"""Who may call what: where the server may listen, bearer tokens with roles, and the role of every RPC.

On loopback or a unix socket without a tokens file everybody is `admin`: the operating system guards the machine. Any
other address needs TLS and a tokens file; without them the server does not start. With a tokens file, default is deny.

Tokens file: one token a line, `NAME ROLE SHA256`, where SHA256 is the hexadecimal hash of the token; `#` starts a
comment. Tokens are random (`new_token`), so a plain hash is enough; the file never holds the token itself.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from supernet_registry.registry.server.status import grpc_code, to_status, trailing_metadata
from supernet_registry.search.errors import InvalidArgument, PermissionDenied, SupernetRegistryError, Unauthenticated

__all__ = ["METHOD_ROLES", "Access", "AccessInterceptor", "Principal", "Role", "check_bind", "is_local", "new_token"]

Metadata = Sequence[tuple[str, str | bytes]]


class Role(StrEnum):
    """What a token is for. `admin` may do everything, the others what the table below says."""

    READER = "reader"
    WRITER = "writer"
    WORKER = "worker"
    ADMIN = "admin"


_READ = frozenset(Role)
_UPLOAD = frozenset({Role.WRITER, Role.WORKER, Role.ADMIN})
_WRITE = frozenset({Role.WRITER, Role.ADMIN})
# A writer runs the jobs that it executes itself (`search --here`); only a worker may take any job of the queue.
_WORK = frozenset({Role.WRITER, Role.WORKER, Role.ADMIN})
_ADMINISTER = frozenset({Role.ADMIN})

_ROLES_BY_SERVICE: Mapping[str, Mapping[str, frozenset[Role]]] = {
    "supernet_registry.v1.DatasetService": {
        "GetEncoder": _READ,
        "CreateDataset": _WRITE,
        "GetDataset": _READ,
        "ListDatasets": _READ,
        "UpdateDataset": _WRITE,
        "DeleteDataset": _ADMINISTER,
        "QueryNearestSources": _READ,
        "MapDatasets": _READ,
    },
    "supernet_registry.v1.SupernetService": {
        "CreateSupernet": _WRITE,
        "GetSupernet": _READ,
        "ListSupernets": _READ,
        "UpdateSupernet": _WRITE,
        "DeleteSupernet": _ADMINISTER,
        "RollbackSupernet": _ADMINISTER,
        "GetSupernetVersion": _READ,
        "ListSupernetVersions": _READ,
        "QueryLineage": _READ,
    },
    "supernet_registry.v1.SearchService": {
        "CreateSearchJob": _WRITE,
        "GetSearchJob": _READ,
        "ListSearchJobs": _READ,
        "CancelSearchJob": _WRITE,
        "WatchSearchJob": _READ,
    },
    "supernet_registry.v1.BlobService": {
        "FindMissingBlobs": _READ,
        "StartUpload": _UPLOAD,
        "WriteBlob": _UPLOAD,
        "GetUpload": _UPLOAD,
        "ReadBlob": _READ,
    },
    "supernet_registry.v1.WorkerService": {
        "LeaseSearchJob": _WORK,
        "RenewLease": _WORK,
        "ReportProgress": _WORK,
        "SaveCheckpoint": _WORK,
        "CompleteSearchJob": _WORK,
        "AbandonSearchJob": _WORK,
    },
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _READ},
}

METHOD_ROLES: Mapping[str, frozenset[Role]] = {
    f"/{service}/{method}": roles for service, methods in _ROLES_BY_SERVICE.items() for method, roles in methods.items()
}
"""Roles that may call a method, by its full name. A method that is not here is for nobody."""

_OPEN_TO_ALL = "/grpc.health.v1.Health/"
"""Load balancers ask for health without a token; the answer holds nothing but SERVING or NOT_SERVING."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    name: str
    role: Role


_LOCAL_USER = Principal("local", Role.ADMIN)


def new_token(name: str, role: Role) -> tuple[str, str]:
    """Make a random token. Returns the token, to give away, and its line for the tokens file."""
    token = secrets.token_urlsafe(32)
    return token, f"{name} {role.value} {_hash(token)}"


class Access:
    """Identifies callers by their tokens and checks their roles.

    Args:
        tokens_file: see the module; None lets everybody in as admin.

    Raises:
        InvalidArgument: the file cannot be read, or a line is not `NAME ROLE SHA256`.
    """

    def __init__(self, tokens_file: Path | None) -> None:
        self._principals = None if tokens_file is None else _read_tokens(tokens_file)

    def identify(self, metadata: Metadata) -> Principal:
        """Return who sent this metadata.

        Raises:
            Unauthenticated: no token, or an unknown one.
        """
        if self._principals is None:
            return _LOCAL_USER
        values = [value for key, value in metadata if key == "authorization"]
        scheme, _, token = str(values[-1]).partition(" ") if values else ("", "", "")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated(
                "The request carries no bearer token.",
                remedy="Pass --token or set SUPERNET_REGISTRY_TOKEN.",
            )
        sent = _hash(token.strip())
        # All hashes are compared, and each in constant time: how long it takes says nothing about any of them.
        matches = [principal for known, principal in self._principals if hmac.compare_digest(known, sent)]
        if not matches:
            raise Unauthenticated("The token is not known.", remedy="Ask the registry's administrator for a new one.")
        return matches[0]

    def check(self, method: str, metadata: Metadata) -> None:
        """Let a call through, or raise.

        Args:
            method: full name, `/package.Service/Method`.
            metadata: invocation metadata.

        Raises:
            Unauthenticated: see `identify`.
            PermissionDenied: the caller's role may not call the method, or nobody may.
        """
        if self._principals is None or method.startswith(_OPEN_TO_ALL):
            return
        principal = self.identify(metadata)
        allowed = METHOD_ROLES.get(method, frozenset())
        if principal.role not in allowed:
            roles = ", ".join(sorted(allowed)) or "nobody"
            raise PermissionDenied(
                f"{method} is for {roles}; the token {principal.name!r} is a {principal.role}.",
                remedy="Use a token with one of these roles.",
            )


class AccessInterceptor(aio.ServerInterceptor):
    """Asks `admit` about every call, before any of its handler runs, and refuses in its stead."""

    def __init__(self, admit: Callable[[str, Metadata], None]) -> None:
        self._admit = admit

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, or one that refuses."""
        try:
            self._admit(handler_call_details.method, handler_call_details.invocation_metadata or ())
        except SupernetRegistryError as error:
            return _refusal(error)
        return await continuation(handler_call_details)


def check_bind(address: str, *, tls: bool, tokens: bool) -> None:
    """Refuse to listen where others could reach the server without TLS and tokens.

    Raises:
        InvalidArgument: `address` is neither loopback nor a unix socket, and TLS or tokens are missing.
    """
    if is_local(address) or (tls and tokens):
        return
    missing = " and ".join(
        name for name, given in (("a TLS certificate with its key", tls), ("a tokens file", tokens)) if not given
    )
    raise InvalidArgument(
        f"{address!r} can be reached from other machines, and {missing} is missing.",
        field="address",
        remedy=(
            "Listen on 127.0.0.1 or unix:/path, or set SUPERNET_REGISTRY_TLS_CERTIFICATE, SUPERNET_REGISTRY_TLS_KEY "
            "and SUPERNET_REGISTRY_TOKENS_FILE."
        ),
    )


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address such as `127.0.0.1:50551`, `[::1]:0` or `unix:/tmp/socket`."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(error: SupernetRegistryError) -> Any:
    status = to_status(error)

    async def refuse(_requests: object, context: aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc_code(status), status.message, trailing_metadata(status))

    # On the wire all four kinds of call look alike, and this one answers before reading any request.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


_TOKEN_LINE = re.compile(r"(\S+)\s+(reader|writer|worker|admin)\s+([0-9a-f]{64})")


def _read_tokens(path: Path) -> list[tuple[str, Principal]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"The tokens file {path} cannot be read: {error}.", field="tokens_file", remedy="Correct its path."
        ) from error
    principals = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _TOKEN_LINE.fullmatch(text)
        if match is None:
            # The line is not quoted: somebody may have put the token itself there.
            raise InvalidArgument(
                f"Line {number} of the tokens file {path} is not `NAME ROLE SHA256`.",
                field="tokens_file",
                remedy="Make lines with `supernet-registry token NAME --role ROLE`.",
            )
        principals.append((match[3], Principal(match[1], Role(match[2]))))
    return principals
