"""The child network as ONNX: pixels in, probabilities out, so that nothing of this project is needed to use it.

Normalisation and softmax are part of the graph. Its input `images` is uint8 (N, height, width, 3), RGB, of exactly the
size that the network was trained on; N is free. Its output `probabilities` is float32 (N, K). The model's metadata
property `child` is the JSON that the network's safetensors carry: class names, genotype, search space, accuracies.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor, nn

from supernet_registry.search.children.child import Child
from supernet_registry.search.errors import OptionalDependency
from supernet_registry.search.storage.container import canonical_json

__all__ = ["INPUT", "OUTPUT", "child_to_onnx"]

INPUT, OUTPUT = "images", "probabilities"


class _FromPixels(nn.Module):
    """Images (N, H, W, 3) uint8 -> probabilities (N, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, child: Child) -> None:
        super().__init__()
        self.network = child.network
        for name, values in (("mean", child.normalisation.mean), ("std", child.normalisation.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255.0
        return cast("Tensor", self.network((pixels - self.mean) / self.std).softmax(dim=1))


def child_to_onnx(child: Child) -> bytes:
    """An ONNX model of a child network that is on the CPU.

    Raises:
        OptionalDependency: the extra `onnx` is not installed.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise OptionalDependency(
            "Writing ONNX needs the packages onnx and onnxscript.",
            remedy="Install them with `pip install 'supernet-registry[onnx]'`.",
        )
    # Two images: the exporter takes a dimension of one for a constant.
    example = torch.zeros(2, *child.size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        _FromPixels(child).eval(),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
    )
    assert program is not None
    program.model.metadata_props["child"] = canonical_json(child.metadata)
    return program.model_proto.SerializeToString()
