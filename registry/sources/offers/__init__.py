"""Where candidates come from besides the shortlist: one file an offer, and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernet_registry.search.results import GENERALIST
from supernet_registry.search.strategies import Axis, Strategy

if TYPE_CHECKING:
    from supernet_registry.registry.catalog import Catalog
    from supernet_registry.registry.sources.offers.offer import Offer
    from supernet_registry.registry.sources.stored_sketches import StoredSketches

__all__ = ["OFFERS", "open_offers"]

_HERE = "supernet_registry.registry.sources.offers"

OFFERS = Axis(
    "offer",
    "What is a candidate for other reasons than its distance.",
    [
        Strategy(
            GENERALIST,
            "the newest eligible supernet that was pretrained over several datasets",
            f"{_HERE}.generalist:GeneralistOffer",
        ),
    ],
)
"""By the `origin` of their candidates. Classes `(catalog, sketches)`; see `registry.sources.offers.offer.Offer`."""


def open_offers(catalog: Catalog, sketches: StoredSketches) -> list[Offer]:
    """All offers, ready to be asked, in the order in which their candidates are listed."""
    return [offer.load()(catalog, sketches) for offer in OFFERS]
