"""Bits of searches, children, sketches and rankings: the same as when they were last changed on purpose."""

from __future__ import annotations

import json

import pytest
import torch

from tests.golden import CASES, FILE, machine

STORED = json.loads(FILE.read_text("utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_the_golden_digests(name: str) -> None:
    """A difference that is meant is written by `python -m tests.golden`, with a page in docs/decisions/."""
    mine = STORED.get(machine())
    if mine is None:
        pytest.skip(f"NO GOLDEN DIGESTS for {machine()}: write them at a commit that is known to be good")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert CASES[name]() == mine[name]
    finally:
        torch.set_num_threads(threads)
