"""What a training step needs of the device's memory, and the batch size that fits.

Nearly all of it are the maps that the forward pass keeps for the backward pass, and these grow with the batch. They
are counted, not modelled: two forward passes, over 2 and over 4 images, with hooks on what autograd keeps give bytes an
image. To this come the backward pass's own maps and the allocator's losses (`_MARGIN`), and what the optimiser holds.

A batch that does not fit is halved before the search begins: the alternative is a search killed by the system in the
middle. On a CPU "free" is what Linux says is available, and no more than the control group's limit leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet_registry.search.errors import NotEnoughMemory
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.data import Batches, Data
from supernet_registry.search.training.evaluation import autocast

__all__ = ["StepMemory", "fit_batch_size", "free_bytes", "measure_step"]

_MARGIN = 1.5  # of a step's peak over what is kept: measured 1.03 to 1.15 of allocations, 1.4 of resident memory
_COPIES = 7  # of all weights: gradient, two moments, best state, rollback, checkpoint, and one to spare
_USABLE = 0.9  # share of the free memory that is planned with
_FEWEST = 2  # images: BatchNorm knows no variance of one
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes that a training step adds to what is allocated before the first."""

    fixed_bytes: int
    image_bytes: float  # an image of the batch

    def of(self, images: int) -> int:
        """Estimated peak for a batch of so many images."""
        return round(self.fixed_bytes + self.image_bytes * images)


def measure_step(network: Network, data: Data) -> StepMemory:
    """Count what a step of `network` on images of `data` keeps; the network is left as it was."""
    weights = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    of_weights = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    few, more = (_kept_bytes(network, data, images) for images in (_FEWEST, 2 * _FEWEST))
    return StepMemory(_COPIES * of_weights, _MARGIN * (more - few) / _FEWEST)


def _kept_bytes(network: Network, data: Data, images: int) -> int:
    """Bytes of all different tensors that autograd keeps of one forward pass; those of a map's views count once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    chosen = torch.arange(images, device=data.device) % len(data.train)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(data.device):
        # `loss` holds on to the graph, so that no storage is freed and its address given to another while we count.
        loss = F.cross_entropy(network(data.normalisation(data.train.images[chosen])), data.train.labels[chosen])
    del loss
    return sum(kept.values())


def fit_batch_size(recipe: Recipe, data: Data, step: StepMemory, free: int | None) -> tuple[Recipe, str]:
    """The recipe with the batch size halved until a step fits into `free` bytes (None: unknown), and a remark on it.

    Raises:
        NotEnoughMemory: not even two images fit.
    """
    if free is None:
        return recipe, ""
    size = recipe.batch_size
    while step.of(_largest_batch(data, size)) > _USABLE * free:
        size //= 2
        if size < _FEWEST:
            raise NotEnoughMemory(
                f"A step of {_FEWEST} images needs about {_mib(step.of(_FEWEST))}; {_mib(free)} of memory are free.",
                remedy="Choose a smaller search space or resolution, or a machine with more memory.",
            )
    if size == recipe.batch_size:
        return recipe, ""
    remark = (
        f"A step of {recipe.batch_size} images needs about {_mib(step.of(recipe.batch_size))} and {_mib(free)} of "
        f"memory are free: {size} images a step instead."
    )
    evaluated = max(1, recipe.eval_batch_size * size // recipe.batch_size)
    return replace(recipe, batch_size=size, eval_batch_size=evaluated), remark


def _largest_batch(data: Data, batch_size: int) -> int:
    return max(Batches.largest(len(split), batch_size) for split in (data.train, data.val))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may still allocate on the device; None if nobody says."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type != "cpu":
        return None
    told = [free for free in (_free_of_system(), _free_of_control_group()) if free is not None]
    return min(told, default=None)


def _free_of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _free_of_control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of the control group leaves (version 2); its page cache can be given back."""
    try:
        limit, used = ((root / name).read_text().strip() for name in ("memory.max", "memory.current"))
        statistics = (root / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    if limit == "max":
        return None
    cache = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
    return max(0, int(limit) - int(used) + cache)


def _mib(count: int) -> str:
    return f"{count / _MIB:,.0f} MiB"
