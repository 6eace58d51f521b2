"""One server per data folder, and where it listens.

`server.lock` is locked by the running server (and freed by the operating system however it ends); `server.json` says
where it listens, so that an address with port 0 can be found.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from supernet_registry.search.errors import AlreadyExists, InvalidArgument

__all__ = ["DataDirLock", "read_server_file"]

_LOCK = "server.lock"
_FILE = "server.json"


class DataDirLock:
    """Holds a data folder for this process.

    Raises:
        AlreadyExists: another server holds it.
        InvalidArgument: it cannot be written.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = (data_dir / _LOCK).open("a")
        except OSError as error:
            raise InvalidArgument(
                f"{data_dir} cannot be used: {error}.", field="data_dir", remedy="Choose a folder that can be written."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            holder = read_server_file(data_dir) or {}
            raise AlreadyExists(
                f"Another server{_described(holder)} already uses {data_dir}.",
                field="data_dir",
                remedy="Stop it first, or choose another --data-dir.",
            ) from error

    def announce(self, address: str, *, secure: bool) -> None:
        """Write `server.json`; readers see the old file or the new one, never half of it."""
        partial = self._dir / f"{_FILE}.tmp"
        partial.write_text(json.dumps({"address": address, "pid": os.getpid(), "secure": secure}) + "\n", "utf-8")
        partial.replace(self._dir / _FILE)

    def release(self) -> None:
        """Remove `server.json` and let others have the folder."""
        (self._dir / _FILE).unlink(missing_ok=True)
        self._lock.close()


def read_server_file(data_dir: Path) -> dict[str, Any] | None:
    """Read `server.json`: `address`, `pid`, `secure`. None if no server has announced itself.

    A killed server leaves its file behind; compare `pid` where that matters.
    """
    try:
        content = json.loads((data_dir / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _described(holder: dict[str, Any]) -> str:
    return f" (process {holder['pid']}, {holder['address']})" if {"pid", "address"} <= holder.keys() else ""
