"""Offers and signals: a new one is a class and a line in its table, and the clients see what it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.work.candidates import choose_candidates
from supernet_registry.registry.server import background
from supernet_registry.registry.sources.offers import OFFERS
from supernet_registry.registry.sources.offers.offer import Offer
from supernet_registry.registry.sources.signals import SIGNALS
from supernet_registry.registry.sources.signals.signal import Signal
from supernet_registry.search.strategies import Strategy
from tests.registry.server.server_tools import make_dataset


class Siblings(Offer):
    """Offers each version that was found by its distance once more."""

    def __init__(self, catalog, sketches):
        self._catalog = catalog

    def candidates(self, wanted):
        return [
            replace(
                candidate, origin="siblings", dataset_display_name=self._catalog.datasets.get(candidate.dataset).name
            )
            for candidate in wanted.ranked
        ]


class Luck(Signal):
    """Says the same of all candidates but one."""

    reason = "Nothing is known."

    def __init__(self, catalog):
        self.asked = threading.Event()

    def refresh(self, interrupted=lambda: False):
        self.asked.set()
        return False

    def predict(self, candidates, target, datasets):
        assert {candidate.dataset for candidate in candidates} <= set(datasets)
        return {candidate.version: 0.25 for candidate in candidates if candidate.version != "supernets/far/versions/1"}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Before the server of the test is started."""
    siblings = Strategy("siblings", "the ranking once more", f"{__name__}:Siblings")
    luck = Strategy("luck", "a quarter for everyone", f"{__name__}:Luck")
    with OFFERS.added(siblings), SIGNALS.added(luck):
        yield


def test_a_registered_offer_and_a_registered_signal_are_in_every_answer(client: RegistryClient, finish) -> None:
    near, far = finish(make_dataset(0), "near"), finish(make_dataset(1, other=1.0), "far")
    answer = client.nearest(make_dataset(99))
    assert [(c.version, c.origin) for c in answer.candidates] == [
        (near.name, "nearest"),
        (far.name, "nearest"),
        (near.name, "siblings"),
        (far.name, "siblings"),
    ]
    assert [c.predictions for c in answer.candidates] == 2 * [{"luck": 0.25}, {}]
    assert answer.signal_reasons["luck"] == "Nothing is known."
    assert answer.signal_reasons["gain"].startswith("Not used: ")
    assert [c.origin for c in choose_candidates(answer, 1)] == ["nearest", "siblings", "siblings"]


def test_the_server_lets_every_signal_learn(monkeypatch, make_registry_server) -> None:
    monkeypatch.setattr(background, "_LEARN_SECONDS", 0.05)
    signals = make_registry_server().registry.signals
    assert set(signals) == {"gain", "luck"}
    assert signals["luck"].asked.wait(timeout=60)
    assert "have not been read yet" not in signals["gain"].reason
