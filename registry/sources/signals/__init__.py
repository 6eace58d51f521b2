"""What candidates are worth besides their distance: one file a signal, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from supernet_registry.clients.wire.resources import GAIN
from supernet_registry.registry.sources.signals.gain_predictor import GainPredictor

if TYPE_CHECKING:
    from supernet_registry.registry.catalog import Catalog
    from supernet_registry.registry.sources.signals.signal import Signal

__all__ = ["SIGNALS", "open_signals"]

SIGNALS: dict[str, Callable[[Catalog], Signal]] = {
    GAIN: lambda catalog: GainPredictor(catalog.tastes),
}
"""By their name in `SourceCandidate.predictions`."""


def open_signals(catalog: Catalog) -> dict[str, Signal]:
    """All signals by name, ready to be asked; they have learnt nothing yet."""
    return {name: make(catalog) for name, make in SIGNALS.items()}
