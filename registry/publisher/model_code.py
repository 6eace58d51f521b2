"""The code that a published child network carries: its loader, and the part of this package that runs it."""

from __future__ import annotations

import hashlib
import re
import zipfile
from functools import cache
from importlib.metadata import requires
from pathlib import Path

from supernet_registry import search
from supernet_registry.clients import mlflow_loader

__all__ = ["LOADER", "code_digest", "requirements", "write_code"]

LOADER = "supernet_registry_mlflow_loader"
"""The module that a model names: no name of an installed package, for MLflow puts a model's code first on the path."""

_ARCHIVE = "supernet_registry.zip"
_NEEDED = ("numpy", "pillow", "safetensors", "torch")
"""What a child network imports, besides this package."""
_INIT = '"""The part of Supernet Registry that runs a child network."""\n'


def write_code(folder: Path) -> list[str]:
    """Write the files into a folder; returns their paths, for MLflow's `code_paths`. The bytes are always the same."""
    loader = folder / f"{LOADER}.py"
    loader.write_bytes(Path(mlflow_loader.__file__).read_bytes())
    archive = folder / _ARCHIVE
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in _package().items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # not today: equal files have equal bytes
            info.external_attr = 0o644 << 16
            file.writestr(info, data, zipfile.ZIP_DEFLATED)
    return [str(loader), str(archive)]


@cache
def code_digest() -> str:
    """SHA-256 of all sources that a model carries."""
    digest = hashlib.sha256(Path(mlflow_loader.__file__).read_bytes())
    for name, data in _package().items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def requirements() -> list[str]:
    """What else a model needs, with the bounds of this package: an index has all of it, and not this package.

    Raises:
        PackageNotFoundError: this package is used without being installed.
    """
    declared = [line.partition(";")[0].strip() for line in requires("supernet-registry") or ()]
    found = [line for name in _NEEDED for line in declared if re.match(rf"{name}(?![\w.-])", line)]
    return list(dict.fromkeys(found))  # once, in how many extras it may stand


@cache
def _package() -> dict[str, bytes]:
    """Sources by their names in the archive: the whole of `search`, which knows nothing of clients and service."""
    root = Path(search.__file__).parent
    files = {f"supernet_registry/search/{path.relative_to(root).as_posix()}": path for path in root.rglob("*.py")}
    sources = {name: files[name].read_bytes() for name in sorted(files)}
    return {"supernet_registry/__init__.py": _INIT.encode(), **sources}
