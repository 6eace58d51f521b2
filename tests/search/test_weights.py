"""Weights from strangers: what is sound is described, everything else is refused before torch sees it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from supernet_registry.search.errors import NotFinite, SupernetRegistryError, UnsafeWeights, WeightsTooLarge
from supernet_registry.search.spaces import make_space
from supernet_registry.search.storage.weights import MAX_HEADER_BYTES, check_weights

SPACE = make_space()
METADATA = {"space": SPACE.to_json(), "n_classes": 3, "genotype": "|none~0|"}


def sound(arrays: dict[str, Any] | None = None, kind: str = "supernet", **changes: Any) -> bytes:
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.arange(4)} if arrays is None else arrays
    return save(arrays, {kind: json.dumps({**METADATA, **changes})})


def rebuilt(header: dict[str, Any] | str, body: bytes = b"\0" * 4) -> bytes:
    """A file with any header at all."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_tensor(**changes: Any) -> dict[str, Any]:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    return {"__metadata__": {"supernet": json.dumps(METADATA)}, "a": entry}


@pytest.mark.parametrize("kind", ["supernet", "child"])
def test_sound_weights_are_described(kind, tmp_path):
    data = sound(kind=kind)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        info = check_weights(source)
        assert (info.kind, info.space, info.space_id, info.n_classes) == (kind, SPACE, SPACE.id, 3)
        assert {t.name: (t.dtype, t.shape) for t in info.tensors} == {"a": ("F32", (2, 3)), "b": ("I64", (4,))}
        assert info.size_bytes == len(data)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float16), (np.inf, np.float32), (-np.inf, np.float64)])
def test_a_number_that_is_not_finite_is_found_wherever_it_hides(value, dtype):
    array = np.zeros(2_500_000, dtype)  # more than one chunk
    check_weights(sound({"a": array}))
    array[-1] = value
    with pytest.raises(NotFinite, match="'a'"):
        check_weights(sound({"a": array}))


@pytest.mark.parametrize(("bits", "finite"), [(0x3F80, True), (0x7F7F, True), (0x7F80, False), (0xFFC1, False)])
def test_bfloat16_is_checked_though_numpy_does_not_know_it(bits, finite):
    data = rebuilt(with_tensor(dtype="BF16", data_offsets=[0, 2]), bits.to_bytes(2, "little"))
    if finite:
        check_weights(data)
    else:
        with pytest.raises(NotFinite):
            check_weights(data)


def test_limits_are_kept(tmp_path):
    data = sound()
    path = tmp_path / "weights"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(WeightsTooLarge):
            check_weights(source, max_bytes=len(data) - 1)
    with pytest.raises(WeightsTooLarge):
        check_weights(data, max_tensors=1)


TWICE = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\0\0\0",
        b"not a safetensors file at all",
        (2**63).to_bytes(8, "little") + b"{}",
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MAX_HEADER_BYTES + 1),
        sound()[:-1],
        sound() + b"\0",
        rebuilt("[]"),
        rebuilt("{" * 5000),
        rebuilt("[" * 100_000),
        rebuilt(f"{{{TWICE}, {TWICE}}}"),
        rebuilt({"a": with_tensor()["a"]}),
        rebuilt({**with_tensor(), "__metadata__": {"supernet": "{}", "format": "pt"}}),
        rebuilt({**with_tensor(), "__metadata__": {"pickle": "{}"}}),
        rebuilt({**with_tensor(), "__metadata__": {"supernet": 3}}),
        rebuilt({**with_tensor(), "__metadata__": {"supernet": '{"n_classes": NaN}'}}),
        rebuilt(with_tensor(dtype="OBJECT")),
        rebuilt(with_tensor(dtype=["F32"])),
        rebuilt(with_tensor(shape=[-1])),
        rebuilt(with_tensor(shape=[True])),
        rebuilt(with_tensor(shape=[1.0])),
        rebuilt(with_tensor(shape=[2**40, 2**40])),
        rebuilt(with_tensor(shape=[1] * 9)),
        rebuilt(with_tensor(data_offsets=[4, 0])),
        rebuilt(with_tensor(data_offsets=[0])),
        rebuilt(with_tensor(data_offsets=[4, 8]), b"\0" * 8),
        rebuilt(with_tensor(extra=1)),
        rebuilt({**with_tensor(), "b": with_tensor()["a"]}),
        rebuilt({**with_tensor(), "x" * 1000: with_tensor(data_offsets=[4, 8])["a"]}, b"\0" * 8),
        sound(n_classes=0),
        sound(n_classes="3"),
        sound(genotype=None),
        sound(space={}),
        sound(space=[1, 2]),
        sound(space={**SPACE.to_json(), "family": "nasnet"}),
        sound(space={**SPACE.to_json(), "channels": 10**9}),
        sound(space={**SPACE.to_json(), "operations": [["a"]]}),
    ],
)
def test_what_is_not_sound_is_refused(data, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(UnsafeWeights):
            check_weights(source)


@settings(max_examples=50)
@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_our_errors(data):
    with pytest.raises(SupernetRegistryError):
        check_weights(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(dtype=json_values, shape=json_values, offsets=json_values, metadata=json_values)
@example(dtype="F32", shape=[1], offsets=[0, 4], metadata={"supernet": "{}"})
def test_no_header_raises_anything_but_our_errors(dtype, shape, offsets, metadata):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    with pytest.raises(SupernetRegistryError):
        check_weights(rebuilt({"__metadata__": metadata, "a": entry}))


@settings(max_examples=200)
@given(position=st.integers(0, len(sound()) - 1), byte=st.integers(0, 255))
def test_a_flipped_byte_is_either_harmless_or_refused(position, byte):
    """Tensor bytes may be any finite numbers; nothing else may slip through unnoticed."""
    data = bytearray(sound())
    data[position] = byte
    try:
        info = check_weights(bytes(data))
    except SupernetRegistryError:
        return
    assert sum(t.end - t.start for t in info.tensors) <= len(data)
