"""The publisher process: passes over the outbox, with a back-off of its own, until it is told to stop.

It may be killed at any moment; the next one goes on where MLflow's own content says it was.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.publisher.store import tracking_store
from supernet_registry.registry.settings import Settings
from supernet_registry.search.errors import NotPossibleNow, OptionalDependency, SupernetRegistryError

if TYPE_CHECKING:
    from supernet_registry.registry.publisher.drain import Publisher, Report

__all__ = ["Backoff", "main", "open_publisher", "publish_once", "run_until_stopped"]

POLL_S = 1.0
"""Pause between two looks at an empty outbox: an indexed query on a local file."""
PARENT_POLL_S = 1.0

_logger = logging.getLogger(__name__)


class Backoff:
    """Doubling pauses from 1 s to 5 min, back to the first one after a success."""

    FIRST_S, LONGEST_S = 1.0, 300.0

    def __init__(self) -> None:
        self._next_s = self.FIRST_S

    def reset(self) -> None:
        """Something worked."""
        self._next_s = self.FIRST_S

    def pause_s(self) -> float:
        """Seconds to wait now."""
        pause, self._next_s = self._next_s, min(2 * self._next_s, self.LONGEST_S)
        return pause


def run_until_stopped(publisher: Publisher, stop: threading.Event) -> None:
    """Publish what comes, until `stop` is set."""
    backoff = Backoff()
    while not stop.is_set():
        report = publisher.drain(stop.is_set)
        if report.published:
            backoff.reset()
        if report.trouble:
            pause_s = backoff.pause_s()
            _logger.warning("MLflow is out of reach, next try in %.0f s: %s", pause_s, report.trouble)
            stop.wait(pause_s)
        else:
            backoff.reset()
            stop.wait(POLL_S)


def publish_once(publisher: Publisher, settings: Settings, *, rebuild: bool = False) -> Report:
    """Publish what waits, as the only publisher of the data folder.

    Raises:
        NotPossibleNow: one does.
    """
    with _only_one(settings.data_dir / "publisher.lock", wait=False):
        if rebuild:
            _logger.info("%d entries queued again", publisher.rebuild())
        return publisher.drain()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `python -m supernet_registry.registry.publisher`.

    Returns:
        0; or with --once 6 if entries still wait because MLflow is out of reach, 4 if some were refused for good.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        if arguments.parent_pid:
            _exit_with_parent(arguments.parent_pid)
        settings = Settings(data_dir=arguments.data_dir)
        with open_publisher(settings, arguments.tracking_uri) as (publisher, catalog):
            if arguments.rebuild:
                _logger.info("%d entries queued again", publisher.rebuild())
            with _only_one(settings.data_dir / "publisher.lock"):
                return _run(publisher, catalog, once=arguments.once)
    except SupernetRegistryError as error:
        _logger.error("%s", error)
        return error.exit_code


@contextmanager
def open_publisher(settings: Settings, tracking_uri: str | None = None) -> Iterator[tuple[Publisher, Catalog]]:
    """A publisher, and the open catalog that it publishes; None for the settings' own tracking server.

    Raises:
        OptionalDependency: MLflow is not installed.
        SupernetRegistryError: the catalog cannot be opened; the type says why.
    """
    publisher_type = _publisher_type()
    store = tracking_store(settings.data_dir, tracking_uri or settings.mlflow_tracking_uri)
    _logger.info("publishing to %s", store.public_uri)
    catalog = Catalog.open(settings)
    try:
        yield publisher_type(catalog, store), catalog
    finally:
        catalog.close()


def _publisher_type() -> type[Publisher]:
    try:
        from supernet_registry.registry.publisher.drain import Publisher
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        raise OptionalDependency(
            "MLflow is not installed.", remedy='Install "supernet-registry[mlflow]", or serve with --no-mlflow.'
        ) from error
    return Publisher


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m supernet_registry.registry.publisher", description="Keeps MLflow in step."
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="data folder of the registry")
    parser.add_argument("--tracking-uri", help="MLflow tracking server or database; default: SQLite in the data folder")
    parser.add_argument("--once", action="store_true", help="publish what waits, then exit")
    parser.add_argument("--rebuild", action="store_true", help="first queue every job and supernet again")
    parser.add_argument("--parent-pid", type=int, default=0, help="leave when this process is no longer the parent")
    return parser


def _run(publisher: Publisher, catalog: Catalog, *, once: bool) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not once:
        run_until_stopped(publisher, stop)
        return 0
    report = publisher.drain(stop.is_set)
    for row in catalog.outbox.dead():
        _logger.warning("refused: %s: %s", row.resource, row.dead_reason)
    if report.trouble:
        _logger.error("MLflow is out of reach: %s", report.trouble)
        return 6
    return 4 if report.refused else 0


@contextmanager
def _only_one(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Wait until no other publisher works on this data folder; the kernel frees the lock of a dead one.

    Raises:
        NotPossibleNow: another one does, and it is not to be waited for.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise NotPossibleNow(
                    "Another publisher works on this data folder: `serve` starts one.",
                    remedy="It publishes by itself; stop it first where everything is to be published again.",
                ) from error
            _logger.info("another publisher works on this data folder; waiting until it has ended")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _exit_with_parent(parent: int) -> None:
    """Leave when the parent is gone, even in the middle of a hanging call: being killed is always safe here.

    The parent says who it is: it may have died before this process could ask.
    """

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(PARENT_POLL_S)
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
