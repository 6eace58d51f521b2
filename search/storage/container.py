"""The one reader of safetensors from outside: everything is checked against the header before anything is allocated.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}, "__metadata__": {..}},
then the tensors back to back (https://github.com/huggingface/safetensors). Everything that a header can lie about is
checked: its size, duplicate keys, names, dtypes, shapes, ranges that overlap, leave gaps or leave the file. How much of
each is too much differs by what a container holds, and is said by its `Limits`.

We write at most ONE metadata key, because the writer's order of several keys is not fixed and our blobs are
content-addressed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Header",
    "Limits",
    "TensorInfo",
    "TooManyTensors",
    "canonical_json",
    "pack",
    "parse_json",
    "read_header",
    "unpack",
]

_LENGTH_BYTES = 8
_MAX_DIMENSIONS = 8
_MAX_NAME = 256
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one kind of container may hold."""

    dtypes: tuple[str, ...] = tuple(_ITEM_BYTES)
    """Safetensors' names of them."""
    header_bytes: int
    """Parsing JSON costs about ten times its size in memory."""
    tensors: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header declares it; `start` and `end` are byte offsets behind the header."""

    name: str
    dtype: str  # safetensors' name: U8, I64, F32, ...
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header that says nothing impossible."""

    tensors: dict[str, TensorInfo]  # in the order of their bytes
    metadata: dict[str, str]
    body_start: int  # byte offset of the first tensor


class TooManyTensors(ValueError):
    """A container holds more tensors than its kind may."""


def canonical_json(value: object) -> str:
    """JSON with one spelling: sorted keys, no spaces, ASCII only, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def pack(arrays: Mapping[str, NDArray[Any]], key: str, metadata: object) -> bytes:
    """Safetensors bytes of `arrays` with the one metadata entry `key` = canonical JSON of `metadata`; deterministic."""
    from safetensors.numpy import save

    data: bytes = save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {key: canonical_json(metadata)})
    return data


def read_header(source: bytes | BinaryIO, limits: Limits) -> Header:
    """The parsed header of a container, given its bytes or a seekable file, of which no more than the header is read.

    Raises:
        TooManyTensors: more than `limits` allow.
        ValueError: not safetensors, or outside of the other limits; the message is a clause without a full stop.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    size = file.seek(0, io.SEEK_END)
    if size < _LENGTH_BYTES:
        raise ValueError("it is shorter than the length of a header")
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > limits.header_bytes:
        raise ValueError(f"its header would have {length} bytes, more than {limits.header_bytes}")
    if length > size - _LENGTH_BYTES:
        raise ValueError("its header is cut off")
    header = parse_json(file.read(length), "its header")
    metadata = header.pop("__metadata__", {})
    body_start = _LENGTH_BYTES + length
    tensors = _tensors(header, size - body_start, limits)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not strings")
    return Header(tensors=tensors, metadata=metadata, body_start=body_start)


def parse_json(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object without duplicate keys: two readers of the same bytes must not see two different things.

    Raises:
        ValueError: it is none, or holds NaN or infinity; the message begins with `what`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise _Refused(f"{what} has a key twice")
        return result

    def no_constant(name: str) -> Any:
        raise _Refused(f"{what} holds {name}")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except _Refused:
        raise
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")
    return value


class _Refused(ValueError):
    """JSON, but not such as we read."""


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


def _tensors(entries: dict[str, Any], body_size: int, limits: Limits) -> dict[str, TensorInfo]:
    """Tensors in the order of their bytes, which they must cover without gap or overlap."""
    if len(entries) > limits.tensors:
        raise TooManyTensors(f"it has {len(entries)} tensors, more than {limits.tensors}")
    tensors = sorted(
        (_tensor(name, value, limits.dtypes) for name, value in entries.items()), key=lambda t: (t.start, t.end)
    )
    position = 0
    for tensor in tensors:
        if tensor.start != position:
            raise ValueError(f"tensor {tensor.name!r} starts at byte {tensor.start} where {position} was expected")
        position = tensor.end
    if position != body_size:
        raise ValueError(f"its tensors cover {position} of {body_size} bytes")
    return {tensor.name: tensor for tensor in tensors}


def _tensor(name: str, value: Any, dtypes: tuple[str, ...]) -> TensorInfo:
    if not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        raise ValueError("a tensor's name is empty, too long or not printable")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise ValueError(f"tensor {name!r} has dtype {str(dtype)[:20]!r}; allowed are {', '.join(dtypes)}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has no valid shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has no valid byte range")
    start, end = offsets
    needed = prod(shape) * _ITEM_BYTES[dtype]  # Python integers: no overflow
    if end - start != needed:
        raise ValueError(f"tensor {name!r} declares {needed} bytes and spans {end - start}")
    return TensorInfo(name, dtype, tuple(shape), start, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)
