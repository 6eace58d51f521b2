"""What candidates are worth besides their distance: one file a signal, and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernet_registry.clients.wire.resources import GAIN
from supernet_registry.search.strategies import Axis, Strategy

if TYPE_CHECKING:
    from supernet_registry.registry.catalog import Catalog
    from supernet_registry.registry.sources.signals.signal import Signal

__all__ = ["SIGNALS", "open_signals"]

_HERE = "supernet_registry.registry.sources.signals"

SIGNALS = Axis(
    "signal",
    "What is predicted of a candidate, besides its distance.",
    [
        Strategy(
            GAIN,
            "the validation accuracy that it adds over scratch, as finished jobs have seen of such sources",
            f"{_HERE}.gain_predictor:GainPredictor",
        ),
    ],
)
"""By their name in `SourceCandidate.predictions`. Classes `(catalog,)`; see `registry.sources.signals.signal`."""


def open_signals(catalog: Catalog) -> dict[str, Signal]:
    """All signals by name, ready to be asked; they have learnt nothing yet."""
    return {signal.name: signal.load()(catalog) for signal in SIGNALS}
