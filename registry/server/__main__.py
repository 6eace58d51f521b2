"""`python -m registry.server`: one server process, until SIGTERM or SIGINT.

Options not named here come from the environment (`registry.settings`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from registry.server.app import build_server
from registry.settings import Settings
from search.errors import SupernetRegistryError


def main(argv: list[str] | None = None) -> int:
    """Run a server; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m registry.server", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of database, blobs and locks")
    parser.add_argument("--address", help="host:port (port 0: any free one) or unix:/path")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(Settings(**given)))
    except SupernetRegistryError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


async def _serve(settings: Settings) -> None:
    server = build_server(settings)
    await server.start()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await server.stop()


if __name__ == "__main__":
    sys.exit(main())
