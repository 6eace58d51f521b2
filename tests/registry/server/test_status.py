"""Errors become statuses that say what to do, and nothing more than that."""

from __future__ import annotations

import errno
import logging
import sqlite3

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from sqlalchemy.exc import OperationalError

from supernet_registry.registry.server.status import as_registry_error, grpc_code, to_status, trailing_metadata
from supernet_registry.search import errors
from supernet_registry.search.errors import InvalidArgument, SupernetRegistryError


def details_of(status):
    found = {}
    for packed in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = kind()
                packed.Unpack(found[kind])
    return found


@pytest.mark.parametrize("kind", sorted(errors.error_types().values(), key=lambda kind: kind.reason))
def test_every_error_keeps_its_reason_field_remedy_and_delay(kind):
    error = kind("It is wrong.", remedy="Correct it.", field="a.b", retry_after_s=1.5, metadata={"persisted_size": "7"})
    status = to_status(error)
    details = details_of(status)
    assert grpc_code(status).name == kind.code
    assert status.message == "It is wrong."
    assert details[ErrorInfo].reason == kind.reason
    assert details[ErrorInfo].domain == "supernet_registry"
    assert dict(details[ErrorInfo].metadata) == {"persisted_size": "7", "remedy": "Correct it."}
    assert details[BadRequest].field_violations[0].field == "a.b"
    assert details[RetryInfo].retry_delay.ToMilliseconds() == 1500


def test_what_quotes_a_huge_input_still_fits_into_the_trailing_metadata():
    """gRPC drops a call whose trailing metadata exceed 8 KiB; a message percent-encodes to three times its size."""
    text = "\N{SNOWMAN}" * 10_000
    error = InvalidArgument(text, remedy=text, field=text, metadata={"value": text})
    status = to_status(error)
    ((_, packed),) = trailing_metadata(status)
    assert 3 * len(status.message.encode()) + len(packed) * 4 / 3 < 8000


def test_lone_surrogates_do_not_break_the_answer():
    assert to_status(InvalidArgument("bad \ud800 text")).message == "bad ? text"


def operational(text: str) -> OperationalError:
    return OperationalError("SELECT 1", {}, sqlite3.OperationalError(text))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "no space"), "DISK_FULL"),
        (operational("database or disk is full"), "DISK_FULL"),
        (operational("database is locked"), "TOO_MANY_REQUESTS"),
        (OverflowError("Python int too large to convert to SQLite INTEGER"), "INVALID_ARGUMENT"),
    ],
)
def test_what_the_system_says_is_translated_to_what_the_caller_can_do(error, reason):
    assert as_registry_error(error, where="Test").reason == reason


def test_an_unknown_error_shows_an_incident_id_and_logs_the_rest_under_it(caplog):
    with caplog.at_level(logging.ERROR):
        try:
            raise RuntimeError("password=hunter2 in /srv/secret")
        except RuntimeError as error:
            seen = as_registry_error(error, where="Service/Method")
    assert seen.reason == "INTERNAL"
    assert "hunter2" not in str(seen)
    assert seen.metadata["incident"] in seen.message
    assert seen.metadata["incident"] in caplog.text
    assert "hunter2" in caplog.text
    assert "Service/Method" in caplog.text


def test_our_own_errors_pass_unchanged():
    error = SupernetRegistryError("known")
    assert as_registry_error(error, where="Test") is error
