"""A version's child network as files that stand alone: safetensors or ONNX, and a JSON that says how to use them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from supernet_registry.clients.channel.blobs import IncomingFile, Progress
from supernet_registry.clients.children import full_version_name, need_torch, open_child, require_child
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import InvalidArgument
from supernet_registry.clients.wire.plain import plain
from supernet_registry.clients.wire.resources import Dataset, SupernetVersion
from supernet_registry.search.storage.weights import check_weights

__all__ = ["Export", "ExportFormat", "default_stem", "export_child"]


class ExportFormat(StrEnum):
    SAFETENSORS = "safetensors"
    ONNX = "onnx"


@dataclass(frozen=True, slots=True)
class Export:
    """What `export_child` has written."""

    version: SupernetVersion
    folder: Path
    files: tuple[Path, ...]


def export_child(
    client: RegistryClient,
    version: str,
    folder: Path | None = None,
    *,
    formats: Collection[ExportFormat] = (ExportFormat.SAFETENSORS,),
    progress: Progress | None = None,
) -> Export:
    """Write the child network of a version into a folder: `child.safetensors`, `child.onnx`, and `child.json`.

    The JSON says all that using them needs: class names in the order of the outputs, size and normalisation of the
    images, genotype and search space; and where the network comes from. Safetensors need no torch here.

    Args:
        client: the registry.
        version: `supernets/{id}/versions/{n}`, or a supernet for its head.
        folder: made if it is not there; None for `{supernet}-v{n}` in the current folder.
        formats: which of the two; both, to deploy the one and to load the other with `load_child`.
        progress: called with (bytes received, bytes in all).

    Raises:
        NotFound: no such version.
        NotPossibleNow: it has no child network.
        OptionalDependency: ONNX is wanted, and torch or the extra `onnx` is missing.
        InvalidArgument: no format, or a folder that cannot be written.
        UnsafeWeights, NotFinite: the registry's blob is not a child network.
    """
    if not formats:
        raise InvalidArgument("No format is given.", remedy="Name safetensors or onnx.", field="formats")
    if ExportFormat.ONNX in formats:
        need_torch()
    found = client.get_version(full_version_name(version))
    blob = require_child(found)
    target = folder or Path(default_stem(found))
    if target.exists() and not target.is_dir():
        raise InvalidArgument(f"{target} is a file.", remedy="Name a folder.", field="output")
    dataset = client.get_dataset(found.dataset)
    data = client.download_blob(blob, progress=progress)
    contents = {f"child.{kind.value}": _content(data, kind) for kind in ExportFormat if kind in formats}
    described = _describe(found, dataset, data, contents)
    contents["child.json"] = (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()
    return Export(found, target, tuple(_write(target / name, content) for name, content in contents.items()))


def default_stem(version: SupernetVersion) -> str:
    """`digits-v3`."""
    _, supernet, _, number = version.name.split("/")
    return f"{supernet}-v{number}"


def _content(data: bytes, kind: ExportFormat) -> bytes:
    if kind is ExportFormat.SAFETENSORS:
        return data
    from supernet_registry.search.children.onnx_export import child_to_onnx

    return child_to_onnx(open_child(data, "cpu"))


def _describe(version: SupernetVersion, dataset: Dataset, data: bytes, contents: dict[str, bytes]) -> dict[str, Any]:
    info = check_weights(data)
    height, width = info.metadata.get("size", (0, 0))
    return {
        "version": version.name,
        "classes": info.metadata.get("class_names", list(dataset.class_names)),
        "genotype": info.genotype,
        # Its own: a child may be wider than the supernet that it was derived from.
        "search_space": {**info.space.to_json(), "id": info.space_id},
        "input": {
            "height": height,
            "width": width,
            "channels": 3,
            "colours": "RGB; grey images repeat their one channel",
            "resized": "by area averaging where larger, bilinearly where smaller",
            "mean": info.metadata.get("mean"),
            "std": info.metadata.get("std"),
            "normalised": "(pixel / 255 - mean) / std, channel by channel",
        },
        "files": {name: _file_facts(name, content) for name, content in contents.items()},
        "dataset": plain(dataset),
        "metrics": plain(version.metrics),
        "cost": plain(version.cost),
        "parents": plain(version.parents),
        "transfer_mode": version.transfer_mode.value,
    }


def _file_facts(name: str, content: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    if name.endswith(".onnx"):
        facts |= {
            "input": "images: uint8 (N, height, width, 3), not normalised: the graph does it",
            "output": "probabilities: float32 (N, classes)",
        }
    else:
        facts["load"] = "supernet_registry.search.children.child.load_child(bytes), then .predict(images)"
    return facts


def _write(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with IncomingFile(path) as sink:
            sink.write(content)
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be written: {error.strerror or error}.", remedy="Choose another place.", field="output"
        ) from error
    return path
