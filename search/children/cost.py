"""What using a child network costs: parameters, multiply-accumulates, and seconds on the device at hand.

Multiply-accumulates are those of convolutions and the linear head for one image, the convention of the NAS literature
(DARTS' "multiply-add"); they do not depend on a machine. Seconds do: they are medians on a warm device, from uint8
pixels that are there already to logits, without autocast, as `Child.predict` runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from supernet_registry.search.children.child import count_parameters
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.training.data import Data

__all__ = ["BATCH", "ChildCost", "count_macs", "measure_child"]

BATCH = 64
"""Images of the larger of the two batches that are timed."""

_WARM_UPS = 2  # the first passes choose kernels and allocate
_LEAST, _MOST = 3, 20  # timed passes
_BUDGET_S = 0.5  # of a batch size, after which the least number is enough


@dataclass(frozen=True, slots=True)
class ChildCost:
    """Figures of one network on one device."""

    parameters: int
    macs: int  # multiply-accumulates of one image
    single_seconds: float  # of one image alone, median
    batch_seconds: float  # of `BATCH` images at once, median


@torch.no_grad()
def measure_child(network: Network, data: Data) -> ChildCost:
    """Measure a child network, in `eval` mode, on the device and with images of its data."""
    images = data.test.images[torch.arange(BATCH, device=data.device) % len(data.test)]

    def seconds(count: int) -> float:
        pixels = images[:count]
        return _median_seconds(lambda: network(data.normalisation(pixels)), data.device)

    return ChildCost(count_parameters(network), count_macs(network, data.size), seconds(1), seconds(BATCH))


@torch.no_grad()
def count_macs(network: Network, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one image of `size` (height, width), by torch's own formulas for every operator."""
    image = torch.zeros(1, 3, *size, device=network.head.weight.device)
    counter = _Counter()
    with counter:
        network(image)
    return counter.flops // 2  # torch counts a multiplication and an addition as two


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums torch's formulas over the operators that run.

    `FlopCounterMode` does the same, but loads `torch.compile`'s compiler first, which takes seconds.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled; the guard against it is what loads the compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def _median_seconds(run: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # kernels are only queued when the call returns
        return time.perf_counter() - began

    for _ in range(_WARM_UPS):
        once()
    taken: list[float] = []
    while len(taken) < _LEAST or (len(taken) < _MOST and sum(taken) < _BUDGET_S):
        taken.append(once())
    return statistics.median(taken)
