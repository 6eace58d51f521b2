"""What the five services share: the catalog, the encoder, the index and the source finder, opened together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from supernet_registry.clients.wire.resources import Encoder
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.index.embedding_index import EmbeddingIndex
from supernet_registry.registry.index.reembedding import CurrentEmbeddings
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.sources.finder import SourceFinder
from supernet_registry.registry.sources.offers import open_offers
from supernet_registry.registry.sources.signals import open_signals
from supernet_registry.registry.sources.signals.signal import Signal
from supernet_registry.registry.sources.stored_sketches import StoredSketches
from supernet_registry.registry.transport.pool import TransportPool, default_processes
from supernet_registry.search.errors import DimensionMismatch, EncoderMismatch, InvalidArgument
from supernet_registry.search.similarity import (
    DEFAULT_SKETCH_SIZE,
    EMBEDDING_DIMENSION,
    Sketch,
    embedding_id,
    load_encoder,
)

__all__ = ["Registry", "resolve_encoder"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registry:
    """The opened registry. Everything in it is thread-safe."""

    settings: Settings
    catalog: Catalog
    encoder: Encoder
    embedding_id: str
    embeddings: CurrentEmbeddings
    index: EmbeddingIndex
    signals: Mapping[str, Signal]
    finder: SourceFinder

    @classmethod
    def open(cls, settings: Settings) -> Registry:
        """Open the catalog, take up running jobs, and rebuild the index.

        Raises:
            SchemaMismatch: the database is of another release.
            InvalidArgument: the encoder is not fully described.
        """
        encoder = resolve_encoder(settings)
        catalog = Catalog.open(settings)
        try:
            adopted = catalog.leases.readopt()
            if adopted:
                _log.info("%d running jobs keep their leases", adopted)
            current_id = embedding_id(encoder.encoder_id, encoder.dimension)
            embeddings = CurrentEmbeddings(catalog, encoder_id=encoder.encoder_id, embedding_id=current_id)
            index = EmbeddingIndex(EMBEDDING_DIMENSION, embeddings.changes)
            index.catch_up()
            sketches = StoredSketches(catalog.blobs.store)
            signals = open_signals(catalog)
            processes = settings.transport_processes
            finder = SourceFinder(
                catalog,
                sketches,
                index,
                shortlist_size=settings.shortlist_size,
                tie_band=settings.tie_band,
                pool=TransportPool(default_processes() if processes is None else processes),
                offers=open_offers(catalog, sketches),
                signals=signals,
            )
        except BaseException:
            catalog.close()
            raise
        return cls(settings, catalog, encoder, current_id, embeddings, index, signals, finder)

    def close(self) -> None:
        """Stop computing and close the database."""
        self.finder.close()
        self.catalog.close()

    def read_sketch(self, data: bytes, *, field: str) -> Sketch:
        """Parse a sketch and check that this registry can compare it.

        Raises:
            InvalidSketch, NotFinite: see `Sketch.from_bytes`.
            EncoderMismatch, DimensionMismatch: it was made with another encoder.
        """
        sketch = Sketch.from_bytes(data)
        expected = {"encoder_id": self.encoder.encoder_id, "encoder": self.encoder.encoder}
        if sketch.encoder_id != self.encoder.encoder_id:
            raise EncoderMismatch(
                f"The sketch was made with encoder {sketch.encoder_id!r}, this registry compares "
                f"{self.encoder.encoder_id!r}.",
                field=field,
                remedy=f"Make the sketch with encoder {self.encoder.encoder!r} of this release.",
                metadata=expected,
            )
        if sketch.dimension != self.encoder.dimension:
            raise DimensionMismatch(
                f"The sketch has {sketch.dimension} features, the encoder makes {self.encoder.dimension}.",
                field=field,
                remedy="Make the sketch again with the registry's encoder.",
                metadata=expected,
            )
        return sketch


def resolve_encoder(settings: Settings) -> Encoder:
    """Return the encoder whose sketches the registry compares. Never loads a network: the server imports no torch.

    Raises:
        InvalidArgument: a `torchvision:` encoder without id and dimension in the settings, or an unknown name.
    """
    described = Encoder(
        encoder=settings.encoder,
        encoder_id=settings.encoder_id,
        dimension=settings.encoder_dimension,
        sketch_size=DEFAULT_SKETCH_SIZE,
    )
    if settings.encoder.startswith("torchvision:"):
        if not described.encoder_id or not described.dimension:
            raise InvalidArgument(
                f"The server does not load {settings.encoder!r}, so it must be told its id and dimension.",
                field="encoder",
                remedy=(
                    "Set SUPERNET_REGISTRY_ENCODER_ID and SUPERNET_REGISTRY_ENCODER_DIMENSION to what "
                    "search.similarity.load_encoder(...) says on a machine with torch and the weights file."
                ),
            )
        return described
    encoder = load_encoder(settings.encoder)
    if described.encoder_id not in ("", encoder.id):
        raise EncoderMismatch(
            f"The settings ask for encoder {described.encoder_id!r}, this release has {encoder.id!r}.",
            field="encoder_id",
            remedy="Use the release that the registry was filled with, or leave encoder_id out.",
        )
    return replace(described, encoder_id=encoder.id, dimension=encoder.dimension)
