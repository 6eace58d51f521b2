"""Called by `mlflow.pyfunc.load_model` for the child networks that the publisher logs; MLflow is not imported here.

A model carries a copy of this file, `supernet_registry_mlflow_loader.py`, which its description names, and beside it
`supernet_registry.zip`, the part of this package that runs a child network. So a model is served from itself, where the
package is not installed and no index has it; where it is installed, the installed one is used and never shadowed.
There is no pickle on the way: the model's data are the child network's safetensors, checked before torch sees them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
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
    if find_spec("supernet_registry") is None:
        sys.path.append(str(Path(__file__).with_name("supernet_registry.zip")))
    if find_spec("torch") is None:
        from supernet_registry.search.errors import OptionalDependency

        raise OptionalDependency(
            "Running a child network needs PyTorch.", remedy="Install it with `pip install torch`."
        )
    from supernet_registry.search.children.child import load_child

    return ChildNetwork(load_child(Path(path).read_bytes(), device="cpu"))
