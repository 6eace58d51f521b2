"""Where a run computes, and how small tensors get there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernet_registry.search.errors import InvalidArgument

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["device_name", "pick_device", "send"]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor on the device. On CUDA from pinned memory, so that the host need not wait for the copy and,
    with it, for all that was queued before."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; any other name is torch's."""
    import torch  # here: who asks for a device says so himself where torch is missing

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def device_name(device: str = "auto") -> str:
    """Name of the device that searches run on here, such as `NVIDIA H100` or `cpu`.

    Raises InvalidArgument where there is no such device.
    """
    import torch

    try:
        chosen = pick_device(device)
        return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type
    except (RuntimeError, AssertionError, ValueError) as error:  # torch raises any of these, by its build
        raise InvalidArgument(
            f"There is no device {device!r} here ({error}).", remedy="Use auto, cpu, cuda or cuda:N.", field="device"
        ) from error
