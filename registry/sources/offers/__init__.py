"""Where candidates come from besides the shortlist: one file an offer, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from supernet_registry.registry.sources.offers.generalist import GeneralistOffer
from supernet_registry.search.results import GENERALIST

if TYPE_CHECKING:
    from supernet_registry.registry.catalog import Catalog
    from supernet_registry.registry.sources.offers.offer import Offer
    from supernet_registry.registry.sources.stored_sketches import StoredSketches

__all__ = ["OFFERS", "open_offers"]

OFFERS: dict[str, Callable[[Catalog, StoredSketches], Offer]] = {
    GENERALIST: GeneralistOffer,
}
"""By the `origin` of their candidates."""


def open_offers(catalog: Catalog, sketches: StoredSketches) -> list[Offer]:
    """All offers, ready to be asked, in the order in which their candidates are listed."""
    return [make(catalog, sketches) for make in OFFERS.values()]
