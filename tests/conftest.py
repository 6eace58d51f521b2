"""Fixtures for all packages: a real server over loopback."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from supernet_registry.registry.server.app import RegistryServer


def pytest_configure() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, and so would the processes of our tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no `SUPERNET_REGISTRY_*` variable of whoever runs them."""
    for name in list(os.environ):
        if name.startswith("SUPERNET_REGISTRY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def make_registry_server(tmp_path) -> Iterator[Callable[..., RegistryServer]]:
    """Starts servers in this process, on loopback and any free port; keyword arguments are settings.

    All servers of a test share the folder `tmp_path / "registry"` unless they are given a `data_dir` of their own.
    """
    from supernet_registry.registry.server.thread import ServerThread
    from supernet_registry.registry.settings import Settings

    with contextlib.ExitStack() as running:

        def make(**settings: Any) -> RegistryServer:
            values = {
                "data_dir": tmp_path / "registry",
                "address": "127.0.0.1:0",
                "drain_seconds": 1.0,
                "transport_processes": 0,  # which would take seconds of every test
                **settings,
            }
            return running.enter_context(ServerThread(Settings(**values)))

        yield make


@pytest.fixture
def registry_server(make_registry_server: Callable[..., RegistryServer]) -> RegistryServer:
    """A started server: `.address` is where it listens, `.registry` what it serves, `.settings` how."""
    return make_registry_server()
