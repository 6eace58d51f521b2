"""Embeddings kept current: a release with another reference measure embeds the stored sketches anew.

Embeddings of different ids must not share an index, so those that the catalog holds under another id than this
release's are left out of it at first. In the background they are computed again from the stored sketches, in batches;
each batch is committed and then enters the index, so queries see more datasets from batch to batch. Progress is in
the rows themselves: whatever kills the server, the next one goes on with what is left.

Every row is visited once in the life of a server. So a damaged sketch is reported once; and two servers of different
releases on one database cannot go on overwriting each other's embeddings.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.embeddings import IndexRow, OutdatedEmbedding, Renewal
from supernet_registry.search.errors import BlobCorrupt, InvalidInput, NotFound
from supernet_registry.search.similarity import Sketch, embed

__all__ = ["CurrentEmbeddings"]

_log = logging.getLogger(__name__)

BATCH = 64
"""Datasets in one transaction: about a second of work, lost if the server dies meanwhile."""


class CurrentEmbeddings:
    """Hands the index the embeddings of one id, and renews those of other ids. Thread-safe, for one renewing thread.

    Args:
        catalog: the datasets, their sketches and embeddings.
        encoder_id: encoder whose sketches can be embedded.
        embedding_id: what `search.similarity.embedding_id` says of it.
    """

    def __init__(self, catalog: Catalog, *, encoder_id: str, embedding_id: str) -> None:
        self._catalog = catalog
        self._encoder_id = encoder_id
        self._embedding_id = embedding_id
        self._lock = threading.Lock()
        self._sequence = 0  # the last change that was read
        self._last_outdated = 0  # the highest row id with another embedding id among those changes
        self._visited = 0  # rows up to this id were visited
        self._renewed = 0
        self._other_encoders: Counter[str] = Counter()

    @property
    def pending(self) -> bool:
        """Whether there are rows to visit. Costs nothing: the index has read every change through `changes`."""
        return self._visited < self._last_outdated

    def changes(self, after_sequence: int, limit: int) -> Sequence[IndexRow]:
        """The catalog's changes for the index, in which embeddings of another id count as absent."""
        rows = self._catalog.embeddings.index_rows(after_sequence, limit)
        if rows:
            self._note(rows)
        return [row if row.embedding_id == self._embedding_id else replace(row, embedding=None) for row in rows]

    def renew_batch(self, interrupted: Callable[[], bool] = lambda: False, *, size: int = BATCH) -> int:
        """Visit the next outdated datasets and embed them anew; returns how many were stored.

        The caller then lets the index catch up, and calls again while `pending`.

        Args:
            interrupted: asked before every dataset; True stops, with what is done so far being stored.
            size: datasets to visit.
        """
        if not self.pending:
            return 0
        end = self._last_outdated
        batch = self._catalog.embeddings.outdated_embeddings(self._embedding_id, after_row=self._visited, limit=size)
        renewals: list[Renewal] = []
        visited = end if len(batch) < size else batch[-1].row_id
        for outdated in batch:
            if interrupted():
                visited = outdated.row_id - 1
                break
            renewal = self._renewal(outdated)
            if renewal is not None:
                renewals.append(renewal)
        stored = self._catalog.embeddings.renew_embeddings(renewals, self._embedding_id)
        self._renewed += stored
        self._visited = max(self._visited, visited)
        if not self.pending:
            self._report()
        return stored

    def _note(self, rows: Sequence[IndexRow]) -> None:
        """Remember which rows are to be visited. The index may read changes again that it has read before."""
        with self._lock:
            outdated = [
                row
                for row in rows
                if row.sequence > self._sequence
                and row.embedding is not None
                and row.embedding_id != self._embedding_id
            ]
            self._sequence = max(self._sequence, rows[-1].sequence)
            self._last_outdated = max([self._last_outdated, *(row.row_id for row in outdated)])
            late = [row.name for row in outdated if row.row_id <= self._visited]
        if late:
            _log.warning(
                "%d datasets, such as %s, were embedded by a server of another release or encoder and are not compared "
                "until this server starts again: run servers of one release on one database",
                *(len(late), late[0]),
            )

    def _renewal(self, outdated: OutdatedEmbedding) -> Renewal | None:
        """The new embedding; None where there can be none, which is reported."""
        if outdated.encoder_id != self._encoder_id:
            self._other_encoders[outdated.encoder_id] += 1
            return None
        try:
            return Renewal(outdated, embed(Sketch.from_bytes(self._catalog.datasets.sketch_bytes(outdated.name))))
        except NotFound:
            return None  # deleted meanwhile
        except (BlobCorrupt, InvalidInput) as error:
            _log.warning("%s cannot be embedded anew and is not compared: %s %s", outdated.name, error, error.remedy)
            return None

    def _report(self) -> None:
        if self._renewed:
            _log.info("%d datasets were embedded anew as %s", self._renewed, self._embedding_id)
        for encoder_id, count in self._other_encoders.items():
            _log.warning(
                "%d datasets were sketched with encoder %s and are not compared with those of %s: register them again "
                "with this registry's encoder, or run a registry of their own with theirs",
                *(count, encoder_id, self._encoder_id),
            )
        self._renewed = 0
        self._other_encoders.clear()
