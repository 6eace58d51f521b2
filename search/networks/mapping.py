"""A supernet of one size made into one of another: channels sliced or repeated, cells left out or repeated.

For a source whose space differs from the target's in `channels` and `cells` only (`search.spaces.sizes`). Every tensor
of the target comes from a named one of the source, and the report says how; nothing is left to chance.

*Channels.* Target channel j is a copy of source channel g(j), with g spread evenly (`evenly`) over each half of a map,
because the two halves of a factorised reduction see different pixels, and over each part of a map that is several maps
side by side. Whoever reads the channels divides its weights by the number of copies, so that their sum is what it was
(Net2Net: Chen, Goodfellow & Shlens 2016, arXiv:1511.05641): a wider supernet computes the same features, each several
times. A narrower one keeps every few channels and has the weights that read them multiplied by n/n', as if those kept
stood for their neighbours. Widening and narrowing back gives the source exactly.

*Cells* that are repeated are not identities: a deeper supernet is a good initialisation, not the same function.

Legend: n, n' channels in source and target; g channel map, shape (n',).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet_registry.search.errors import UnsafeWeights
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import SearchSpace, check_compatible, family_of
from supernet_registry.search.spaces.family import Cell
from supernet_registry.search.spaces.sizes import block_origins, evenly

__all__ = ["MappingReport", "map_supernet"]

_HEAD = "head."
_HALVES = ("conv_even.weight", "conv_odd.weight")


@dataclass(frozen=True, slots=True)
class MappingReport:
    """What became of every tensor; names are the target's, but for `unused`."""

    origins: Mapping[str, str]
    """The source's tensor that each of the target's was made from; two joined are written `a + b`, a half `a[even]`."""
    copied: tuple[str, ...]  # as they were
    sliced: tuple[str, ...]  # with fewer channels, in or out
    repeated: tuple[str, ...]  # with more channels; where both happened, at least one of them was repeated
    unused: tuple[str, ...]  # of the source

    def __str__(self) -> str:
        return (
            f"{len(self.copied)} tensors copied, {len(self.sliced)} sliced, {len(self.repeated)} repeated, "
            f"{len(self.unused)} of the source's not used"
        )


def map_supernet(
    tensors: Mapping[str, Tensor], source: SearchSpace, target: SearchSpace
) -> tuple[dict[str, Tensor], MappingReport]:
    """The tensors of a source's supernet as those of a target's, by name. The head stays as it is: it is never used.

    Raises:
        SpaceMismatch: the spaces differ in more than their sizes.
        UnsafeWeights: `tensors` are not those of a supernet of `source`.
    """
    check_compatible(source, target)
    theirs, ours = _shapes(source), _shapes(target)
    _check_source(theirs, tensors)
    origins = block_origins(family_of(target), source, target)
    parts = _input_parts(source), _input_parts(target)
    mapped = {name: tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    named = {name: name for name in mapped}
    kinds: dict[str, list[str]] = {"copied": list(mapped), "sliced": [], "repeated": []}
    used = set(mapped)
    for name, shape in ours.items():
        if name in mapped:
            continue
        block, rest = _split(name)
        prefix = "" if block is None else f"blocks.{origins[block]}."
        tensor, named[name], sources = _find(tensors, prefix, rest)
        side_by_side = (1, 1)
        if block is not None and rest.startswith("preprocess."):
            number = int(rest.split(".")[1])
            side_by_side = parts[0][origins[block]][number], parts[1][block][number]
        before = tensor.shape
        mapped[name] = _resize(tensor, shape, side_by_side, halves=not rest.endswith(_HALVES))
        kinds[_kind(before, shape)].append(name)
        used |= sources
    unused = tuple(name for name in tensors if name not in used)
    copied, sliced, repeated = (tuple(kinds[kind]) for kind in ("copied", "sliced", "repeated"))
    return mapped, MappingReport(named, copied, sliced, repeated, unused)


def _shapes(space: SearchSpace) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Network(space, 2, generator=None).state_dict().items()}


def _check_source(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> None:
    wrong = set(expected) ^ set(tensors)
    wrong |= {
        name
        for name in set(expected) & set(tensors)
        if not name.startswith(_HEAD) and tensors[name].shape != expected[name]
    }
    if wrong:
        raise UnsafeWeights(
            f"The source's tensors are not those of its search space: {', '.join(sorted(wrong)[:5])}.",
            remedy="Choose another source.",
            field="weights",
            metadata={"tensors": str(len(wrong))},
        )


def _input_parts(space: SearchSpace) -> list[tuple[int, ...]]:
    """For every block, of how many maps side by side each of its inputs consists: a cell's output of its nodes."""
    family = family_of(space)
    kinds = {kind.name: kind for kind in family.cell_kinds(space)}
    outputs = [1, 1]  # of the stem, which stands for both blocks before the first
    parts: list[tuple[int, ...]] = []
    for block in family.blocks(space):
        parts.append((outputs[-2], outputs[-1]))
        concatenates = isinstance(block, Cell) and kinds[block.kind].output == "concat"
        outputs.append(space.nodes if concatenates else 1)
    return parts


def _split(name: str) -> tuple[int | None, str]:
    """Block number and the rest of a tensor's name."""
    if not name.startswith("blocks."):
        return None, name
    _, number, rest = name.split(".", maxsplit=2)
    return int(number), rest


def _find(tensors: Mapping[str, Tensor], prefix: str, rest: str) -> tuple[Tensor, str, set[str]]:
    """The source's tensor for a name, what to call it, and the names that it was made of.

    A cell's older input goes through a projection or, behind a reduction, through a factorised one: the two 1×1
    convolutions of that are the halves of the other.
    """
    name = prefix + rest
    if name in tensors:
        return tensors[name], name, {name}
    stem, _, last = rest.rpartition(".conv")
    if last == ".weight":
        even, odd = (f"{prefix}{stem}.conv_{half}.weight" for half in ("even", "odd"))
        return torch.cat([tensors[even], tensors[odd]]), f"{even} + {odd}", {even, odd}
    whole = f"{prefix}{stem}.conv.weight"
    half = last.removeprefix("_").removesuffix(".weight")  # even or odd
    count = len(tensors[whole]) // 2
    chosen = tensors[whole][:count] if half == "even" else tensors[whole][count:]
    return chosen, f"{whole}[{half}]", {whole}


def _kind(before: torch.Size, after: torch.Size) -> str:
    if before == after:
        return "copied"
    return "repeated" if any(b < a for b, a in zip(before, after, strict=True)) else "sliced"


def _resize(tensor: Tensor, shape: torch.Size, parts: tuple[int, int], *, halves: bool) -> Tensor:
    """A tensor with other channels out (axis 0) and in (axis 1: `parts` maps side by side in source and target).

    `halves`: whether the channels out are a whole map, and not one half of a factorised reduction.
    """
    if tensor.shape == shape and parts[0] == parts[1]:
        return tensor
    if tensor.shape[0] != shape[0]:
        tensor = tensor[torch.tensor(_channel_map(tensor.shape[0], shape[0], 1, halves=halves))]
    if tensor.ndim < 2 or tensor.shape[1] == shape[1] == 1:
        return tensor
    common = parts[0] if parts[0] == parts[1] else 1
    chosen = torch.tensor(_channel_map(tensor.shape[1], shape[1], common, halves=True))
    read, kept = tensor.shape[1], shape[1]
    copies = torch.bincount(chosen, minlength=read)[chosen].double()
    factors = 1.0 / copies if kept >= read else (read / kept) / copies
    return tensor[:, chosen] * factors.to(tensor.dtype).view(1, -1, *[1] * (tensor.ndim - 2))


def _channel_map(n: int, wanted: int, parts: int, *, halves: bool) -> list[int]:
    """g: for every channel wanted, the one of n that it is a copy of."""
    each, wanted_each = n // parts, wanted // parts
    if not halves or each == wanted_each:
        part = evenly(each, wanted_each)
    else:
        left, wanted_left = each // 2, wanted_each // 2
        part = evenly(left, wanted_left) + [left + number for number in evenly(each - left, wanted_each - wanted_left)]
    return [start * each + number for start in range(parts) for number in part]
