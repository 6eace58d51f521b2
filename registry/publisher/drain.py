"""One pass over the outbox: publish what is due, sort out what is refused, stop at the first sign of trouble."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from supernet_registry.clients.wire.resources import SupernetVersion
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.outbox import OutboxRow
from supernet_registry.registry.publisher.failures import is_missing, is_rejection
from supernet_registry.registry.publisher.models import ModelPublisher
from supernet_registry.registry.publisher.runs import RunPublisher
from supernet_registry.registry.publisher.store import TrackingStore, connect
from supernet_registry.registry.storage import failpoints
from supernet_registry.search.errors import NotFound, TryLater, Unavailable

__all__ = ["LoggedAgain", "Publisher", "Report"]

PAGE_ROWS = 200
RETRY_AFTER_S = 1.0
"""How long a resource that failed waits at least; the process's own back-off comes on top."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one pass did.

    Attributes:
        published: outbox rows that are done.
        refused: outbox rows that were given up; `Outbox.dead` has the reasons.
        trouble: why the pass stopped early; empty if it did not.
    """

    published: int = 0
    refused: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedAgain:
    """What became of the models that were to be logged again, by the names of their versions.

    Attributes:
        logged: have a new model.
        left: have no child network, or the model that they would get.
        missing: are not in MLflow, or no longer.
    """

    logged: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Publisher:
    """Keeps MLflow in step with the catalog.

    The outbox tells which resources changed; what is published is always their present state. Several rows of one
    resource are therefore one piece of work, and doing it twice does no harm.
    """

    def __init__(self, catalog: Catalog, store: TrackingStore) -> None:
        self._catalog = catalog
        self._store = store
        self._connected: tuple[MlflowClient, RunPublisher, ModelPublisher] | None = None

    def drain(self, should_stop: Callable[[], bool] = lambda: False) -> Report:
        """Publish rows until none is due, `should_stop` says so, or MLflow cannot be reached."""
        published = refused = 0
        try:
            _, runs, models = self._connect()
            while rows := self._catalog.outbox.pending(limit=PAGE_ROWS):
                for (topic, resource), row_ids in _by_resource(rows).items():
                    if should_stop():
                        return Report(published=published, refused=refused)
                    if self._publish(runs if topic == "job" else models, resource, row_ids):
                        published += len(row_ids)
                    else:
                        refused += len(row_ids)
        except (MlflowException, OSError, OperationalError, TryLater) as error:
            # The last two: the catalog, or MLflow's own database, is locked or away for a moment.
            return Report(published=published, refused=refused, trouble=_one_line(error))
        return Report(published=published, refused=refused)

    def rebuild(self) -> int:
        """Queue everything anew for publishing; into a store that has it already, nothing is written twice."""
        return self._catalog.outbox.refill()

    def log_again(self, names: Iterable[str] = ()) -> LoggedAgain:
        """Log the models of published versions anew (of all, where none is named), as this release logs them.

        Doing it twice does nothing the second time; doing it while another publisher works does no harm.

        Raises:
            NotFound, InvalidArgument: there is no such version in the registry.
            Unavailable: MLflow cannot be reached; what was logged stays.
        """
        outcome: dict[str, list[str]] = {"logged": [], "left": [], "missing": []}
        try:
            _, _, models = self._connect()
            for version in self._versions(names):
                try:
                    outcome["logged" if models.log_again(version) else "left"].append(version.name)
                except NotFound:
                    outcome["missing"].append(version.name)
        except (MlflowException, OSError) as error:
            raise Unavailable(
                f"MLflow at {self._store.public_uri} is out of reach: {_one_line(error)}.",
                remedy="Try again when it answers.",
            ) from error
        return LoggedAgain(**{kind: tuple(found) for kind, found in outcome.items()})

    def _versions(self, names: Iterable[str]) -> list[SupernetVersion]:
        named = [self._catalog.supernets.get_version(name) for name in names]
        if named:
            return named
        versions: list[SupernetVersion] = []
        token = ""
        while True:
            page, token = self._catalog.supernets.list_versions(page_token=token)
            versions += page
            if not token:
                return versions

    def _connect(self) -> tuple[MlflowClient, RunPublisher, ModelPublisher]:
        if self._connected is None:
            client = connect(self._store)
            self._check_store(client)
            registry_id = self._catalog.mlflow_links.registry_id()
            runs = RunPublisher(client, self._store, self._catalog, registry_id)
            self._connected = client, runs, ModelPublisher(client, self._catalog, runs, registry_id)
        return self._connected

    def _check_store(self, client: MlflowClient) -> None:
        """Start from the beginning if this store has never heard of what was published before."""
        run_id = self._catalog.mlflow_links.any_run()
        if run_id is None:
            return
        try:
            client.get_run(run_id)
        except MlflowException as error:
            if not is_missing(error):
                raise
            count = self.rebuild()
            _logger.warning("%s is not the store published to before; %d entries again", self._store.public_uri, count)

    def _publish(self, publisher: RunPublisher | ModelPublisher, resource: str, row_ids: list[int]) -> bool:
        """Publish one resource; False if it was refused for good.

        Raises:
            MlflowException, OSError: MLflow cannot be reached; the rows wait.
        """
        try:
            publisher.publish(resource)
        except NotFound:
            pass  # deleted since: nothing is left to tell
        except (SQLAlchemyError, TryLater):
            raise  # the catalog's own trouble says nothing about this resource
        except Exception as error:
            if not is_rejection(error) and isinstance(error, (MlflowException, OSError)):
                self._catalog.outbox.defer(row_ids, RETRY_AFTER_S)
                raise
            # A refusal, or a fault of ours: either would stand in everybody's way for ever.
            _logger.warning("given up on %s: %s", resource, _one_line(error), exc_info=not is_rejection(error))
            self._catalog.outbox.bury(row_ids, _one_line(error))
            return False
        failpoints.hit("publish.before_done")
        self._catalog.outbox.done(row_ids)
        return True


def _by_resource(rows: list[OutboxRow]) -> dict[tuple[str, str], list[int]]:
    """Row ids of each resource, oldest first, but those that failed before at the end: they hold nobody up."""
    grouped: dict[tuple[str, str], list[int]] = {}
    for row in sorted(rows, key=lambda row: (row.attempts, row.row_id)):
        grouped.setdefault((row.topic, row.resource), []).append(row.row_id)
    return grouped


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
