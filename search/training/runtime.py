"""Where a run computes, with whom, and how its gradient passes are recorded: handed in, never looked up.

Several runs can live in one process, each in a thread of its own with a runtime of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from supernet_registry.search.training.devices import pick_device
from supernet_registry.search.training.parallel import Ranks
from supernet_registry.search.training.recording import Record

__all__ = ["Runtime"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a run needs of the machine.

    Attributes:
        device: that it computes on.
        ranks: the processes that train together; this one alone unless `search.training.parallel.joined` says more.
        record: how gradient passes are recorded; None to run them as they are. Not to be shared by runs that compute at
            the same time.
    """

    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    record: Record | None = None

    @classmethod
    def on(cls, device: str = "auto", *, ranks: Ranks | None = None, record: Record | None = None) -> Runtime:
        """From the name of a device: `auto`, `cpu`, `cuda`, or any that torch knows."""
        return cls(pick_device(device), ranks or Ranks(), record)

    def alone(self) -> Runtime:
        """The same without the other processes, which wait meanwhile."""
        return replace(self, ranks=Ranks())
