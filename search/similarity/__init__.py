"""Similarity of datasets by optimal transport: encoder, sketch, exact distance, embedding.

Importing this package needs numpy alone; POT is imported by the first transport, torch only by a `torchvision:`
encoder.
"""

from supernet_registry.search.similarity.embedding import EMBEDDING_DIMENSION, embed, embedding_id
from supernet_registry.search.similarity.encoders.base import Encoder
from supernet_registry.search.similarity.encoders.loading import load_encoder
from supernet_registry.search.similarity.sketch import (
    DEFAULT_SKETCH_SIZE,
    MAX_SKETCH_BYTES,
    MAX_SKETCH_SIZE,
    Sketch,
    make_sketch,
)
from supernet_registry.search.similarity.transport import (
    TRANSPORT_ID,
    TransportProblem,
    TransportResult,
    lower_bound,
    otdd,
    otdd_samples,
    sampling_floor,
)

__all__ = [
    "DEFAULT_SKETCH_SIZE",
    "EMBEDDING_DIMENSION",
    "MAX_SKETCH_BYTES",
    "MAX_SKETCH_SIZE",
    "TRANSPORT_ID",
    "Encoder",
    "Sketch",
    "TransportProblem",
    "TransportResult",
    "embed",
    "embedding_id",
    "load_encoder",
    "lower_bound",
    "make_sketch",
    "otdd",
    "otdd_samples",
    "sampling_floor",
]
