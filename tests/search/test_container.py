"""The one reader of containers: what one kind refuses, every kind refuses, each with its own error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from supernet_registry.search.errors import BlobCorrupt, InvalidDataset, InvalidSketch, UnsafeWeights
from supernet_registry.search.similarity import Sketch, load_encoder, make_sketch
from supernet_registry.search.spaces import make_space
from supernet_registry.search.storage.container import Limits, pack, read_header
from supernet_registry.search.storage.weights import check_weights
from supernet_registry.search.tasks import dataset_from_arrays, pack_images, unpack_images
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint


def _images() -> bytes:
    random = np.random.default_rng(0)
    splits = [
        part for n in (8, 4, 4) for part in (random.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8), np.arange(n) % 2)
    ]
    return pack_images(dataset_from_arrays(*splits, name="noise"))


def _sketch() -> bytes:
    return make_sketch(unpack_images(_images()), load_encoder("pixels")).to_bytes()


def _weights() -> bytes:
    described = {"space": make_space().to_json(), "n_classes": 2, "genotype": "|skip|"}
    return pack({"a": np.ones(3, np.float32)}, "supernet", described)


def _checkpoint() -> bytes:
    return pack_checkpoint({"epoch": 3, "weights": {"a": torch.ones(3)}})


KINDS: dict[str, tuple[bytes, Callable[[bytes], Any], type[Exception]]] = {
    "images": (_images(), unpack_images, InvalidDataset),
    "sketch": (_sketch(), Sketch.from_bytes, InvalidSketch),
    "weights": (_weights(), check_weights, UnsafeWeights),
    "checkpoint": (_checkpoint(), unpack_checkpoint, BlobCorrupt),
}


def _edit(change: Callable[[dict[str, Any], str], None]) -> Callable[[bytes], bytes]:
    """Damage to the header, which gets the whole header and the name of one of its tensors."""

    def damage(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header, next(name for name in header if name != "__metadata__"))
        return _with_header(json.dumps(header), data)

    return damage


def _with_header(text: str, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    return len(text).to_bytes(8, "little") + text.encode() + data[8 + length :]


def _header_text(data: bytes) -> str:
    return data[8 : 8 + int.from_bytes(data[:8], "little")].decode().strip()


def _spoil_metadata(header: dict[str, Any], name: str) -> None:
    ((key, text),) = header["__metadata__"].items()
    header["__metadata__"] = {key: text.replace("{", '{"x":NaN,', 1)}


def _repeat_in_metadata(header: dict[str, Any], name: str) -> None:
    ((key, text),) = header["__metadata__"].items()
    header["__metadata__"] = {key: text.replace("{", '{"x":1,"x":2,', 1)}


def _move(header: dict[str, Any], name: str) -> None:
    header[name]["data_offsets"] = [offset + 1 for offset in header[name]["data_offsets"]]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte too few": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"\0",
    "no header": lambda data: data[:7],
    "a header longer than all": lambda data: (2**40).to_bytes(8, "little") + data[8:],
    "no JSON": lambda data: _with_header("{", data),
    "a list": lambda data: _with_header("[]", data),
    "a deep header": lambda data: _with_header("[" * 100_000, data),
    "a key twice": lambda data: _with_header('{"__metadata__":{},' + _header_text(data)[1:], data),
    "NaN in the header": _edit(lambda header, name: header[name].update(shape=[float("nan")])),
    "NaN in the metadata": _edit(_spoil_metadata),
    "a key twice in the metadata": _edit(_repeat_in_metadata),
    "metadata that are no strings": _edit(lambda header, name: header.update(__metadata__={"supernet": 3})),
    "no metadata": _edit(lambda header, name: header.pop("__metadata__")),
    "an unknown dtype": _edit(lambda header, name: header[name].update(dtype="C64")),
    "another shape": _edit(lambda header, name: header[name].update(shape=[2**40, 2**40])),
    "a boolean for a size": _edit(lambda header, name: header[name].update(shape=[True])),
    "nine axes": _edit(lambda header, name: header[name].update(shape=[*(1,) * 8, *header[name]["shape"]])),
    "an entry more": _edit(lambda header, name: header[name].update(strides=[1])),
    "a gap": _edit(
        lambda header, name: header[name].update(data_offsets=[n + 1 for n in header[name]["data_offsets"]])
    ),
    "an overlap": _edit(lambda header, name: header.update({"zz": header[name]})),
    "a name without end": _edit(lambda header, name: header.update({"x" * 300: header.pop(name)})),
    "a name with a line break": _edit(lambda header, name: header.update({"x\n": header.pop(name)})),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_read(kind: str) -> None:
    data, read, _ = KINDS[kind]
    read(data)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_whatever_the_container_holds(kind: str, damage: str) -> None:
    data, read, error = KINDS[kind]
    damaged = DAMAGES[damage](data)
    assert damaged != data
    with pytest.raises(error):
        read(damaged)


def test_every_limit_is_kept_at_its_exact_value() -> None:
    data = pack({"a": np.ones(3, np.float32), "b": np.ones(3, np.int64)}, "key", {})
    length = int.from_bytes(data[:8], "little")
    read = read_header(data, Limits(dtypes=("F32", "I64"), header_bytes=length, tensors=2))
    assert (list(read.tensors), read.metadata, read.body_start) == (["b", "a"], {"key": "{}"}, 8 + length)
    for less in ({"dtypes": ("F32",)}, {"header_bytes": length - 1}, {"tensors": 1}):
        limits: dict[str, Any] = {"dtypes": ("F32", "I64"), "header_bytes": length, "tensors": 2, **less}
        with pytest.raises(ValueError, match=r"dtype|header|tensors"):
            read_header(data, Limits(**limits))
