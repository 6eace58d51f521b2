"""Child networks as MLflow models: safetensors, the code that loads and runs them, and MLflow's own description."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from supernet_registry.clients.wire.resources import SupernetVersion
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.publisher.mapping import TAG
from supernet_registry.registry.publisher.model_code import LOADER, code_digest, requirements, write_code
from supernet_registry.search.errors import BlobCorrupt, NotFinite, NotFound, UnsafeWeights, WeightsTooLarge
from supernet_registry.search.storage.weights import WeightsInfo, check_weights

__all__ = ["ARTIFACT_PATH", "is_current", "log_child"]

ARTIFACT_PATH = "child_network"
"""Folder of the model among the artifacts of a run."""

_CODE = f"{TAG}code"
"""Key of the model's metadata: digest of the code that it carries."""

_logger = logging.getLogger(__name__)


def log_child(client: MlflowClient, catalog: Catalog, run_id: str, version: SupernetVersion) -> bool:
    """Log a version's child network into its run, so that `mlflow.pyfunc.load_model` loads it.

    Doing it twice writes the same files. Returns whether there is a network to log.
    """
    if not version.child_blob:
        return False
    try:
        data = catalog.blobs.read(version.child_blob, "child_blob")
        info = check_weights(data)
    except (BlobCorrupt, NotFound, UnsafeWeights, WeightsTooLarge, NotFinite) as error:
        # A version without a model is worth more than none: its figures and lineage are still true.
        _logger.warning("no model of %s: %s", version.name, error)
        return False
    with tempfile.TemporaryDirectory(prefix="supernet-registry-") as folder:
        blob = Path(folder) / "child.safetensors"
        blob.write_bytes(data)
        model = Path(folder) / ARTIFACT_PATH
        _save(model, blob, version, info)
        client.log_artifacts(run_id, str(model), ARTIFACT_PATH)
    return True


def is_current(client: MlflowClient, run_id: str) -> bool:
    """Whether the model in a run is there, and carries the code that this release would give it."""
    from mlflow.models import Model

    if not any(file.path == f"{ARTIFACT_PATH}/MLmodel" for file in client.list_artifacts(run_id, ARTIFACT_PATH)):
        return False
    with tempfile.TemporaryDirectory(prefix="supernet-registry-") as folder:
        model = Model.load(client.download_artifacts(run_id, f"{ARTIFACT_PATH}/MLmodel", folder))
    return bool((model.metadata or {}).get(_CODE) == code_digest())


def _save(path: Path, blob: Path, version: SupernetVersion, info: WeightsInfo) -> None:
    """Write the model's folder; runs neither the network nor its loader."""
    with warnings.catch_warnings():
        # MLflow complains of type hints of its own when it is imported, and wants an input example, which it would run.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model  # takes a second to import, and only here
        from mlflow.types import Schema, TensorSpec

        images = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))  # without a name: else it wants a dictionary
        probabilities = TensorSpec(np.dtype(np.float32), (-1, info.n_classes))
        save_model(
            path,
            loader_module=LOADER,
            data_path=str(blob),
            code_paths=write_code(blob.parent),
            signature=ModelSignature(Schema([images]), Schema([probabilities])),
            pip_requirements=requirements(),
            metadata={
                f"{TAG}version": version.name,
                f"{TAG}genotype": version.genotype,
                f"{TAG}class_names": info.metadata.get("class_names"),
                _CODE: code_digest(),
            },
        )
