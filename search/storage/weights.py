"""Check a safetensors blob before torch sees it: numpy and the standard library only, and never all in memory.

The format (huggingface/safetensors): 8 bytes little-endian header length, a JSON header of that length that maps each
tensor's name to its dtype, shape and byte range, then the bytes. Everything that a header can lie about is checked:
its size, duplicate keys, names, dtypes, shapes, ranges that overlap, leave gaps or leave the file; then every number
must be finite. A blob must also say what it is, in exactly one metadata key: `supernet` or `child`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from supernet_registry.search.errors import InvalidSearchSpace, NotFinite, UnsafeWeights, WeightsTooLarge
from supernet_registry.search.spaces import SearchSpace, space_from_json

__all__ = ["MAX_HEADER_BYTES", "TensorInfo", "WeightsInfo", "check_weights"]

MAX_HEADER_BYTES = 4 * 2**20
"""A header of 4 MiB describes some 40,000 tensors; parsing JSON costs about ten times its size in memory."""

_LENGTH_BYTES = 8
_MAX_DIMENSIONS = 8
_MAX_NAME = 256
_CHUNK_BYTES = 4 * 2**20

_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_KINDS = ("supernet", "child")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header declares it; `start` and `end` are byte offsets behind the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """What a checked blob holds."""

    kind: str  # supernet or child
    space: SearchSpace
    n_classes: int
    genotype: str
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, Any]  # the JSON under the blob's one metadata key
    size_bytes: int

    @property
    def space_id(self) -> str:
        """Id of the search space."""
        return self.space.id


def check_weights(source: Path | str | bytes, *, max_bytes: int = 2**31, max_tensors: int = 100_000) -> WeightsInfo:
    """Check a weights blob, a file's path or its bytes, and say what it holds.

    Raises:
        UnsafeWeights: not safetensors, or not what it declares.
        WeightsTooLarge: larger than `max_bytes`, or more than `max_tensors` tensors.
        NotFinite: a tensor holds NaN or infinity.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        _check_size(size, max_bytes)
        header, body_start = _read_header(file, size)
        tensors = _parse_tensors(header, size - body_start, max_tensors)
        kind, metadata = _parse_metadata(header)
        for tensor in tensors:
            _check_finite(tensor, file, body_start)
    return _describe(kind, metadata, tensors, size)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise WeightsTooLarge(
            f"The weights have {size} bytes; the limit is {max_bytes}.",
            remedy="Use a smaller search space, or raise the server's limit.",
            field="weights",
        )


def _read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header as parsed JSON, and the offset of the tensors' bytes."""
    if size < _LENGTH_BYTES:
        raise _unsafe("it is shorter than the length of a header")
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise _unsafe(f"its header would have {length} bytes, more than {MAX_HEADER_BYTES}")
    if length > size - _LENGTH_BYTES:
        raise _unsafe("its header is cut off")
    return _parse_json(file.read(length), "its header"), _LENGTH_BYTES + length


def _parse_json(text: bytes | str, what: str) -> dict[str, Any]:
    """JSON object without duplicate keys: two readers of the same bytes must not see two different things."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise _unsafe(f"{what} has a key twice")
        return result

    def no_constant(name: str) -> Any:
        raise _unsafe(f"{what} holds {name}")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise _unsafe(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise _unsafe(f"{what} is not a JSON object")
    return value


def _parse_tensors(header: dict[str, Any], body_size: int, max_tensors: int) -> tuple[TensorInfo, ...]:
    """Tensors in the order of their bytes, which they must cover without gap or overlap."""
    entries = {name: value for name, value in header.items() if name != "__metadata__"}
    if len(entries) > max_tensors:
        raise WeightsTooLarge(
            f"The weights have {len(entries)} tensors; the limit is {max_tensors}.",
            remedy="Use a smaller search space.",
            field="weights",
        )
    tensors = sorted((_parse_tensor(name, value) for name, value in entries.items()), key=lambda t: (t.start, t.end))
    position = 0
    for tensor in tensors:
        if tensor.start != position:
            raise _unsafe(f"tensor {tensor.name!r} starts at byte {tensor.start} where {position} was expected")
        position = tensor.end
    if position != body_size:
        raise _unsafe(f"its tensors cover {position} of {body_size} bytes")
    return tuple(tensors)


def _parse_tensor(name: str, value: Any) -> TensorInfo:
    if not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        raise _unsafe("a tensor's name is empty, too long or not printable")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _unsafe(f"tensor {name!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _unsafe(f"tensor {name!r} has dtype {str(dtype)[:20]!r}; allowed are {', '.join(_DTYPES)}")
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _unsafe(f"tensor {name!r} has no valid shape")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise _unsafe(f"tensor {name!r} has no valid byte range")
    start, end = offsets
    if end - start != prod(shape) * _DTYPES[dtype]:
        raise _unsafe(f"tensor {name!r} has {end - start} bytes, which its shape and dtype do not need")
    return TensorInfo(name, dtype, tuple(shape), start, end)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _parse_metadata(header: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The blob's kind and the JSON that describes it."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or len(metadata) != 1:
        raise _unsafe("it must have exactly one metadata key")
    ((kind, text),) = metadata.items()
    if kind not in _KINDS or not isinstance(text, str):
        raise _unsafe(f"its metadata key must be one of: {', '.join(_KINDS)}")
    return kind, _parse_json(text, "its metadata")


def _describe(kind: str, metadata: dict[str, Any], tensors: tuple[TensorInfo, ...], size_bytes: int) -> WeightsInfo:
    n_classes, genotype = metadata.get("n_classes"), metadata.get("genotype")
    if type(n_classes) is not int or n_classes < 1:
        raise _unsafe("its metadata has no valid n_classes")
    if not isinstance(genotype, str):
        raise _unsafe("its metadata has no genotype")
    fields = metadata.get("space")
    try:
        space = space_from_json(fields if isinstance(fields, dict) else {})
    except InvalidSearchSpace as error:
        raise _unsafe(f"its metadata has no valid space: {error.message}") from None
    return WeightsInfo(kind, space, n_classes, genotype, tensors, metadata, size_bytes)


def _check_finite(tensor: TensorInfo, file: BinaryIO, body_start: int) -> None:
    """Raise `NotFinite` at the first NaN or infinity, reading a few MiB at a time."""
    finite = _FINITE.get(tensor.dtype)
    if finite is None:
        return
    dtype, is_finite = finite
    file.seek(body_start + tensor.start)
    for start in range(tensor.start, tensor.end, _CHUNK_BYTES):
        chunk = file.read(min(_CHUNK_BYTES, tensor.end - start))
        if not is_finite(np.frombuffer(chunk, dtype=dtype)):
            raise NotFinite(
                f"Tensor {tensor.name!r} holds NaN or infinity.",
                remedy="The search that made it diverged; lower its learning rate.",
                field="weights",
            )


def _floats_are_finite(values: Any) -> bool:
    return bool(np.isfinite(values).all())


def _bfloat16_is_finite(values: Any) -> bool:
    return bool(((values & 0x7F80) != 0x7F80).all())  # all exponent bits set: infinity or NaN


_FINITE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "F64": ("<f8", _floats_are_finite),
    "F32": ("<f4", _floats_are_finite),
    "F16": ("<f2", _floats_are_finite),
    "BF16": ("<u2", _bfloat16_is_finite),
}


def _unsafe(what: str) -> UnsafeWeights:
    return UnsafeWeights(
        f"These weights are not safe to load: {what}.",
        remedy="Store weights as this project writes them.",
        field="weights",
    )
