"""`python -m supernet_registry.registry.server`: one server process, until SIGTERM or SIGINT.

Options not named here come from the environment (`registry.settings`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from supernet_registry.registry.server.app import build_server
from supernet_registry.registry.server.notifier import wait_for
from supernet_registry.registry.settings import Settings, load_settings
from supernet_registry.search.errors import SupernetRegistryError

_PARENT_CHECK_SECONDS = 1.0


def main(argv: list[str] | None = None) -> int:
    """Run a server; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m supernet_registry.registry.server", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of database, blobs and locks")
    parser.add_argument("--address", help="host:port (port 0: any free one) or unix:/path")
    parser.add_argument("--parent-pid", type=int, help="leave when this process is no longer the parent")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    parent_pid = given.pop("parent_pid", None)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        asyncio.run(_serve(load_settings(**given), parent_pid))
    except SupernetRegistryError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


async def _serve(settings: Settings, parent_pid: int | None) -> None:
    server = build_server(settings)
    await server.start()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    while not stopping.is_set():
        await wait_for(stopping, _PARENT_CHECK_SECONDS)
        if parent_pid is not None and os.getppid() != parent_pid:
            break  # a supervisor that was killed could stop nobody
    await server.stop()


if __name__ == "__main__":
    sys.exit(main())
