"""Checkpoints: a tree of tensors and plain values as safetensors bytes, and back. No pickle.

Tensors are stored under their path; everything else is canonical JSON in the one metadata key `checkpoint`, with
`{"$tensor": path}` where a tensor stood. JSON knows no tuples and no integer keys: trees must not rely on either.
"""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from supernet_registry.search.errors import BlobCorrupt
from supernet_registry.search.storage.container import Limits, canonical_json, parse_json, read_header

__all__ = ["pack_checkpoint", "unpack_checkpoint"]

_KEY = "checkpoint"
_TENSOR = "$tensor"
_LIMITS = Limits(header_bytes=100_000_000, tensors=1_000_000)  # as the safetensors library; histories are in the header


def pack_checkpoint(tree: dict[str, Any]) -> bytes:
    """Serialise a tree of dicts with string keys, lists, tensors and JSON values. Equal trees give equal bytes."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach().cpu().contiguous().clone()
            return {_TENSOR: path}
        if isinstance(value, dict):
            return {key: walk(item, f"{path}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item, f"{path}/{number}") for number, item in enumerate(value)]
        return value

    return bytes(save(tensors, {_KEY: canonical_json(walk(tree, ""))}))


def unpack_checkpoint(data: bytes) -> dict[str, Any]:
    """The inverse of `pack_checkpoint`; raises `BlobCorrupt` if the bytes are no checkpoint."""
    try:
        skeleton = parse_json(read_header(data, _LIMITS).metadata[_KEY], "its metadata")
        tensors = load(data)

        def walk(value: Any) -> Any:
            if isinstance(value, dict):
                return tensors[value[_TENSOR]] if _TENSOR in value else {k: walk(item) for k, item in value.items()}
            return [walk(item) for item in value] if isinstance(value, list) else value

        tree = walk(skeleton)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BlobCorrupt(
            f"These bytes are no checkpoint ({type(error).__name__}).",
            remedy="Start the search again without it.",
            field="checkpoint",
        ) from None
    if not isinstance(tree, dict):
        raise BlobCorrupt(
            "These bytes are no checkpoint.", remedy="Start the search again without it.", field="checkpoint"
        )
    return tree
