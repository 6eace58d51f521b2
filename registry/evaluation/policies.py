"""Where the search of a new task starts: the policies that are compared.

| policy | starts from |
|---|---|
| `registry` | what the registry decides: nearest sources, gates, taste |
| `scratch` | nothing: independent training, what everything is measured against |
| `finetune-previous` | always the last task's supernet |
| `nearest-only` | the nearest stored dataset's version by OT distance: no gate, no taste |
| `random-source` | any stored version |
| `generalist` | a generalist over all tasks so far, pretrained further for each new one |
| `fixed-cold` | no search: a fixed network from nothing, in the training seconds of `scratch` |
| `fixed-warm` | the same, warm-started from its own result on the registry's source, in the registry's seconds |
| `fixed-pretrained` | a torchvision network with given weights, in the registry's seconds |
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["DEFAULT_POLICIES", "QUICK_POLICIES", "Policy"]


class Policy(StrEnum):
    """The policies, by the names under which they are reported."""

    REGISTRY = "registry"
    SCRATCH = "scratch"
    FINETUNE_PREVIOUS = "finetune-previous"
    NEAREST_ONLY = "nearest-only"
    RANDOM_SOURCE = "random-source"
    GENERALIST = "generalist"
    FIXED_COLD = "fixed-cold"
    FIXED_WARM = "fixed-warm"
    FIXED_PRETRAINED = "fixed-pretrained"

    @property
    def fixed(self) -> bool:
        """Whether it trains a fixed network and asks no registry."""
        return self.value.startswith("fixed-")

    @property
    def needs(self) -> Policy | None:
        """The policy whose time it is given."""
        if self is Policy.FIXED_COLD:
            return Policy.SCRATCH
        return Policy.REGISTRY if self.fixed else None

    @property
    def independent(self) -> bool:
        """Whether a task's result depends on nothing that came before it, so that streams may share it."""
        return self in (Policy.SCRATCH, Policy.FIXED_COLD)


DEFAULT_POLICIES = tuple(policy for policy in Policy if policy is not Policy.FIXED_PRETRAINED)

QUICK_POLICIES = (Policy.REGISTRY, Policy.SCRATCH, Policy.FIXED_COLD, Policy.FIXED_WARM)
