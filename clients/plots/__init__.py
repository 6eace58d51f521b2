"""Pictures of what the registry does.

Each function draws one file (.png, .svg or .pdf by its ending) and returns its path. matplotlib is imported only when
something is drawn; without it `OptionalDependency` says what to install.
"""

from supernet_registry.clients.plots.couplings import CouplingPanel, class_couplings
from supernet_registry.clients.plots.curves import Curve, CurvePanel, compare, learning_curves
from supernet_registry.clients.plots.dataset_maps import dataset_map_picture
from supernet_registry.clients.plots.lineage import lineage_picture
from supernet_registry.clients.plots.streams import accuracy_matrix, stream_curves, stream_summary
from supernet_registry.clients.plots.tastes import taste_curves

__all__ = [
    "CouplingPanel",
    "Curve",
    "CurvePanel",
    "accuracy_matrix",
    "class_couplings",
    "compare",
    "dataset_map_picture",
    "learning_curves",
    "lineage_picture",
    "stream_curves",
    "stream_summary",
    "taste_curves",
]
