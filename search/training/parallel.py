"""One search over several processes, a GPU each: data-parallel training by PyTorch's own DistributedDataParallel.

    PYTHONSAFEPATH=1 torchrun --nproc-per-node 4 -m supernet_registry.registry.worker --address HOST:50551

(With PYTHONSAFEPATH, modules in the working directory are not taken for those that the worker imports.)

Every process of the group runs the same pipeline on the same data. Each batch is drawn, and augmented, by all of them
alike; each trains on its own slice, and gradients of weights and α are averages weighted by the slices' sizes, so that
a step is that of one process on the whole batch. Only BatchNorm sees a difference: its training statistics are those
of a slice, as everywhere in DDP. Whatever is decided (evaluation, taste, divergence, stopping) is computed by all alike
or agreed upon, so that all take the same way.

A group exists while `joined` says so; a run is told of it by its `Runtime`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from supernet_registry.search.errors import InvalidArgument, SearchFailed
from supernet_registry.search.strategies import VARIANTS

__all__ = ["ProcessLost", "Ranks", "joined"]

_STEP = timedelta(minutes=10)
"""A process that does not answer for so long in the middle of a search is taken for dead."""
_IDLE = timedelta(days=365)
"""Followers wait for the next search for as long as it takes."""


class ProcessLost(SearchFailed):
    """Another process of the group is gone, or has left the search: nothing can be done together any more."""


class Ranks:
    """The processes that train together. This one is a group of one: everything is left as it is.

    Attributes:
        rank: number of this process, from 0, the leader.
        size: number of processes.
    """

    rank = 0
    size = 1

    def slice(self, batch: Tensor) -> Tensor:
        """This process's part of a batch (along the first axis)."""
        return batch

    def wrap(self, network: nn.Module, weights: Sequence[nn.Parameter]) -> nn.Module:  # noqa: ARG002 - a group needs it
        """The network as training calls it."""
        return network

    def gradients(self, loss: Tensor, weights: Sequence[nn.Parameter], images: int, whole: int) -> list[Tensor | None]:  # noqa: ARG002
        """Gradients of the weights: of the mean loss over a slice of `images` of a batch of `whole`."""
        return list(torch.autograd.grad(loss, list(weights), allow_unused=True))

    def average(self, tensors: Sequence[Tensor], images: int, whole: int) -> list[Tensor]:  # noqa: ARG002
        """The mean over the whole batch of means over slices."""
        return list(tensors)

    def sum(self, tensor: Tensor) -> Tensor:
        """Summed over all processes."""
        return tensor

    def any_wants(self, *, flag: bool) -> bool:
        """Whether it holds in any process."""
        return flag

    def least(self, number: int) -> int:
        """The least of all processes' numbers."""
        return number

    def check(self, variant: str, batch_size: int) -> None:
        """Raise InvalidArgument for a search that this group cannot run."""

    @property
    def looks_every(self) -> int:
        """Steps between two looks at whether to stop."""
        return 1

    def send(self, message: bytes) -> None:
        """The leader's message to all who `receive`."""

    def receive(self) -> bytes:
        """The leader's next message, however long it takes."""
        return b""


class _Group(Ranks):
    """Several processes, by the default group of `torch.distributed`."""

    def __init__(self, control: dist.ProcessGroup | None) -> None:
        self._control = control  # where followers wait for the next search: on the CPU, and with patience
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else None

    def slice(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.size)[self.rank]

    def wrap(self, network: nn.Module, weights: Sequence[nn.Parameter]) -> nn.Module:
        chosen = {id(parameter) for parameter in weights}
        others = [name for name, parameter in network.named_parameters() if id(parameter) not in chosen]
        ignore = nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(network, others)  # type: ignore[no-untyped-call]
        # An operation that was dropped leaves weights without a gradient. BatchNorm's buffers are collected anew before
        # every evaluation, by all alike: nothing is to be broadcast in each step.
        wrapped: nn.Module = _guarded(
            lambda: nn.parallel.DistributedDataParallel(network, find_unused_parameters=True, broadcast_buffers=False)
        )
        return wrapped

    def gradients(self, loss: Tensor, weights: Sequence[nn.Parameter], images: int, whole: int) -> list[Tensor | None]:
        for parameter in weights:
            parameter.grad = None
        scaled = loss * (images * self.size / whole)
        _guarded(lambda: torch.autograd.backward([scaled], inputs=list(weights)))
        return [parameter.grad for parameter in weights]

    def average(self, tensors: Sequence[Tensor], images: int, whole: int) -> list[Tensor]:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) * (images / whole)
        flat = self.sum(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        _guarded(lambda: dist.all_reduce(total))
        return total

    def any_wants(self, *, flag: bool) -> bool:
        return bool(self.sum(torch.tensor([float(flag)], device=self._device)).item())

    def least(self, number: int) -> int:
        value = torch.tensor([number], device=self._device)
        _guarded(lambda: dist.all_reduce(value, op=dist.ReduceOp.MIN))
        return int(value.item())

    def check(self, variant: str, batch_size: int) -> None:
        if VARIANTS.check(variant).alone:
            raise InvalidArgument(
                f"{variant} cannot be searched by several processes together.",
                remedy="Run it in one process, or choose another variant.",
                field="variant",
            )
        if batch_size < 2 * self.size:
            raise InvalidArgument(
                f"A batch of {batch_size} images leaves {self.size} processes less than two images each.",
                remedy=f"Use batches of at least {2 * self.size} images, or fewer processes.",
                field="batch_size",
            )

    @property
    def looks_every(self) -> int:
        return 10  # agreeing costs a round trip, on a GPU also its queue

    def send(self, message: bytes) -> None:
        content = torch.frombuffer(bytearray(message or b"\0"), dtype=torch.uint8)
        _guarded(lambda: dist.broadcast(torch.tensor([len(message)]), src=0, group=self._control))
        _guarded(lambda: dist.broadcast(content, src=0, group=self._control))

    def receive(self) -> bytes:
        length = torch.zeros(1, dtype=torch.long)
        _guarded(lambda: dist.broadcast(length, src=0, group=self._control))
        content = torch.zeros(max(1, int(length)), dtype=torch.uint8)
        _guarded(lambda: dist.broadcast(content, src=0, group=self._control))
        return content[: int(length)].numpy().tobytes()


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """Join the group that `torchrun` describes in the environment, for the length of the block; alone without one.

    Raises:
        ProcessLost: the others do not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield Ranks()
        return
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _guarded(lambda: dist.init_process_group("nccl" if on_cuda else "gloo", timeout=_STEP))
    control = dist.new_group(backend="gloo", timeout=_IDLE)
    yield _Group(control)  # type: ignore[arg-type]  # we are a member of it
    # Not after an error: saying goodbye to those who are gone may take forever, and this process ends anyway.
    dist.destroy_process_group()


def _guarded(work: Callable[[], Any]) -> Any:
    """What `work` returns; a process that is gone, or too late, is told as an error of ours."""
    try:
        return work()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # all that torch.distributed raises
        raise ProcessLost(
            f"Another process of this search does not answer ({str(error).splitlines()[0][:200]}).",
            remedy="See the logs of the other processes; the job goes on from its last checkpoint.",
        ) from error
