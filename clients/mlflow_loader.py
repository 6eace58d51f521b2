"""Called by `mlflow.pyfunc.load_model` for the child networks that the publisher logs; MLflow is not imported here.

Their model description names this module and its function: neither may be renamed. There is no pickle on the way: the
model's data are the child network's safetensors, checked before torch sees them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from supernet_registry.search.children.child import Child

__all__ = ["ChildNetwork"]


class ChildNetwork:
    """What MLflow's `predict` is passed on to."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def predict(self, images: ArrayLike) -> NDArray[np.float32]:
        """Class probabilities (n, classes) of uint8 images (n, height, width, 1 or 3). Raises InvalidArgument."""
        return self.child.predict(np.asarray(images))


def _load_pyfunc(path: str) -> ChildNetwork:
    """The network in a safetensors file, on the CPU; MLflow's name for the entry of a loader.

    Raises:
        OptionalDependency: torch is missing.
        UnsafeWeights, WeightsTooLarge, NotFinite: the file is no child network.
    """
    from supernet_registry.clients.children import need_torch, open_child

    need_torch()
    return ChildNetwork(open_child(Path(path).read_bytes(), "cpu"))
