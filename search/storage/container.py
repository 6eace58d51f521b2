"""Reading safetensors bytes from outside: everything is checked against the header before anything is allocated.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}, "__metadata__": {..}},
then the tensors back to back (https://github.com/huggingface/safetensors). We write at most ONE metadata key, because
the writer's order of several keys is not fixed and our blobs are content-addressed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Header", "TensorInfo", "canonical_json", "pack", "read_header", "unpack"]

MAX_HEADER_BYTES = 1 << 20
_ITEM_SIZE = {"U8": 1, "I64": 8, "F32": 4, "F64": 8}


@dataclass(frozen=True)
class TensorInfo:
    dtype: str  # safetensors' name: U8, I64, F32, ...
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def canonical_json(value: object) -> str:
    """JSON with one spelling: sorted keys, no spaces, ASCII only, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def pack(arrays: Mapping[str, NDArray[Any]], key: str, metadata: object) -> bytes:
    """Safetensors bytes of `arrays` with the one metadata entry `key` = canonical JSON of `metadata`; deterministic."""
    from safetensors.numpy import save

    data: bytes = save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {key: canonical_json(metadata)})
    return data


def read_header(data: bytes) -> Header:
    """The parsed header.

    Raises:
        ValueError: not safetensors, header longer than 1 MiB, a dtype other than U8, I64, F32 and F64, or offsets that
            do not cover the data exactly.
    """
    if len(data) < 8:
        raise ValueError("the data end inside the header")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"the header claims {length} bytes")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("the metadata are not strings")
    spans: list[tuple[int, int]] = []
    tensors = {name: _tensor_info(name, entry, spans) for name, entry in header.items()}
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError("the tensors overlap or leave gaps")
        end = stop
    if end != len(data) - 8 - length:
        raise ValueError(f"the header describes {end} bytes of tensors, {len(data) - 8 - length} follow")
    return Header(tensors=tensors, metadata=metadata)


def unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays, writable copies. Call `read_header` first and judge what it says.

    Raises:
        ValueError: the safetensors library refuses the bytes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
    return {name: np.array(a) for name, a in arrays.items()}


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Two readers may choose differently among entries of one name, so there is no such header."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _tensor_info(name: str, entry: object, spans: list[tuple[int, int]]) -> TensorInfo:
    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name!r} is not described by an object")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZE:
        raise ValueError(f"tensor {name!r} has dtype {dtype!r}")
    shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has a malformed shape or offsets")
    size = _ITEM_SIZE[dtype]
    for extent in shape:  # Python integers: no overflow
        size *= extent
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"tensor {name!r} declares {size} bytes and spans {offsets[1] - offsets[0]}")
    spans.append((offsets[0], offsets[1]))
    return TensorInfo(dtype=dtype, shape=shape)


def _counts(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and len(value) <= 8 and all(type(v) is int and 0 <= v < 2**48 for v in value):
        return tuple(value)
    return None
