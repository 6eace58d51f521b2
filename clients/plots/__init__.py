"""Pictures of what the registry does.

Each function draws one file (.png, .svg or .pdf by its ending) and returns its path. matplotlib is imported only when
something is drawn; without it `OptionalDependency` says what to install.
"""

from clients.plots.curves import Curve, CurvePanel, compare, learning_curves
from clients.plots.lineage import lineage_picture
from clients.plots.streams import accuracy_matrix, stream_curves, stream_summary

__all__ = [
    "Curve",
    "CurvePanel",
    "accuracy_matrix",
    "compare",
    "learning_curves",
    "lineage_picture",
    "stream_curves",
    "stream_summary",
]
