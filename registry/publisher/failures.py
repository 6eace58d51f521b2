"""What an error of MLflow means for the backlog: wait, or give this one entry up."""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from requests import HTTPError

__all__ = ["Rejected", "is_missing", "is_rejection"]

# These describe the way to the server, not the entry: an expired token or a wrong path in the URI must not empty the
# backlog into the dead letters.
_ABOUT_THE_WAY = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND"}
_PASSING = (408, 425, 429, 499)


class Rejected(Exception):
    """The entry cannot be published as things stand in MLflow, and asking again would not help."""


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow does not know what was asked for."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def is_rejection(error: Exception) -> bool:
    """Whether `error` is permanent: our own verdict, or a 4xx about the entry itself."""
    if isinstance(error, Rejected):
        return True
    if isinstance(error, HTTPError) and error.response is not None:  # from the transfer of an artifact
        return _is_about_the_entry(error.response.status_code) and error.response.status_code not in (401, 403, 404)
    if not isinstance(error, MlflowException) or error.error_code in _ABOUT_THE_WAY:
        return False
    return _is_about_the_entry(error.get_http_status_code())  # type: ignore[no-untyped-call]


def _is_about_the_entry(status: int) -> bool:
    return 400 <= status < 500 and status not in _PASSING
