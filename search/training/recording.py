"""Gradient passes as CUDA graphs: recorded once, replayed with a single launch.

A pass through a DARTS supernet is thousands of kernels of a few microseconds each, and between two of them the GPU
waits for Python. A CUDA graph holds all their launches. In return nothing may change from one replay to the next but
the contents of tensors: inputs are copied to where the recorded pass read them, weights and α are read where they lie,
and results lie where the recorded pass wrote them, until the next replay overwrites them.

Recording costs a few passes more than it saves in a short trial, so a pass is recorded only once it has been run
`PATIENCE` times with inputs of one shape: a taste runs as it is.

Off unless the runtime says otherwise; that of `python -m supernet_registry.registry.worker --cuda-graphs` does.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["PATIENCE", "CudaGraphs", "GradientPass", "Record", "Recorded"]

PATIENCE = 16
"""Plain runs of a pass before it is recorded."""
_WARM_UPS = 3  # on a side stream, before recording: libraries choose their kernels and allocate what they keep

GradientPass = Callable[..., Sequence[Tensor | None]]
"""A function of tensors that reads other tensors only where they stay, and changes none."""
Record = Callable[[GradientPass, Sequence[Tensor]], Callable[[], Sequence[Tensor | None]]]
"""From a pass and its inputs to what runs it again on these very tensors."""


class CudaGraphs:
    """Records CUDA graphs, as https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs wants it.

    All that are alive share one pool of memory: passes never run at the same time, and what one returns is used up
    before the next. A pool whose graphs are all gone must not be taken up again; the next graph opens another.
    """

    def __init__(self) -> None:
        self._alive: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(self, run: GradientPass, inputs: Sequence[Tensor]) -> Callable[[], Sequence[Tensor | None]]:
        """A graph of the pass on these very tensors."""
        device = inputs[0].device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch gives it no types
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    run(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            pool = next((graph.pool() for graph in self._alive), None)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on (a heartbeat pins no memory and launches nothing).
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                outputs = run(*inputs)
        self._alive.add(graph)

        def replay() -> Sequence[Tensor | None]:
            with torch.cuda.device(device):
                graph.replay()
            return outputs

        return replay


class Recorded:
    """A gradient pass, recorded where that is wanted and pays.

    Results of a recorded pass are valid until the next call of any.

    Args:
        run: the pass.
        record: how it is recorded; None to run it as it is, always.
    """

    def __init__(self, run: GradientPass, record: Record | None) -> None:
        self._run, self._record = run, record
        self._runs: Counter[object] = Counter()
        self._recordings: dict[object, tuple[list[Tensor], Callable[[], Sequence[Tensor | None]]]] = {}

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor | None]:
        if self._record is None:
            return self._run(*inputs)
        key = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs)
        if key not in self._recordings:
            self._runs[key] += 1
            if self._runs[key] <= PATIENCE:
                return self._run(*inputs)
            places = [tensor.clone() for tensor in inputs]
            self._recordings[key] = places, self._record(self._run, places)
        places, replay = self._recordings[key]
        torch._foreach_copy_(places, list(inputs))
        return replay()

    def forget(self) -> None:
        """Record anew: something has changed that a recording does not see, or its memory is needed."""
        self._recordings.clear()
