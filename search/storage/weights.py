"""Check a safetensors blob before torch sees it: numpy and the standard library only, and never all in memory.

Its header must hold what `search.storage.container` asks of every container, then every number must be finite. A blob
must also say what it is, in exactly one metadata key: `supernet` or `child`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from supernet_registry.search.errors import InvalidSearchSpace, NotFinite, UnsafeWeights, WeightsTooLarge
from supernet_registry.search.spaces import SearchSpace, space_from_json
from supernet_registry.search.storage.container import (
    Header,
    Limits,
    TensorInfo,
    TooManyTensors,
    parse_json,
    read_header,
)

__all__ = ["MAX_HEADER_BYTES", "WeightsInfo", "check_weights"]

MAX_HEADER_BYTES = 4 * 2**20
"""A header of 4 MiB describes some 40,000 tensors; parsing JSON costs about ten times its size in memory."""

_CHUNK_BYTES = 4 * 2**20

_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL")
_KINDS = ("supernet", "child")


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


def check_weights(
    source: Path | str | bytes | BinaryIO, *, max_bytes: int = 2**31, max_tensors: int = 100_000
) -> WeightsInfo:
    """Check a weights blob and say what it holds: a path, bytes, or a seekable file that is open, which stays open.

    Of a file, a few MiB at a time are in memory.

    Raises:
        UnsafeWeights: not safetensors, or not what it declares.
        WeightsTooLarge: larger than `max_bytes`, or more than `max_tensors` tensors.
        NotFinite: a tensor holds NaN or infinity.
    """
    with _opened(source) as file:
        size = file.seek(0, io.SEEK_END)
        _check_size(size, max_bytes)
        header, kind, metadata = _read_header(file, max_tensors)
        tensors = tuple(header.tensors.values())
        for tensor in tensors:
            _check_finite(tensor, file, header.body_start)
    return _describe(kind, metadata, tensors, size)


@contextmanager
def _opened(source: Path | str | bytes | BinaryIO) -> Iterator[BinaryIO]:
    """The file of a path or of bytes, closed in the end; an open file stays open."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            yield file
    else:
        yield source


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise WeightsTooLarge(
            f"The weights have {size} bytes; the limit is {max_bytes}.",
            remedy="Use a smaller search space, or raise the server's limit.",
            field="weights",
        )


def _read_header(file: BinaryIO, max_tensors: int) -> tuple[Header, str, dict[str, Any]]:
    """The header, the blob's kind and the JSON that describes it."""
    try:
        header = read_header(file, Limits(dtypes=_DTYPES, header_bytes=MAX_HEADER_BYTES, tensors=max_tensors))
        if len(header.metadata) != 1:
            raise _unsafe("it must have exactly one metadata key")
        ((kind, text),) = header.metadata.items()
        if kind not in _KINDS:
            raise _unsafe(f"its metadata key must be one of: {', '.join(_KINDS)}")
        return header, kind, parse_json(text, "its metadata")
    except TooManyTensors as error:
        raise WeightsTooLarge(
            f"These weights are too large: {error}.", remedy="Use a smaller search space.", field="weights"
        ) from None
    except ValueError as error:
        raise _unsafe(str(error)) from None


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
