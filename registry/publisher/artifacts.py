"""Files of a run: how the source was decided, the genotype, and a drawing of its cells."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient

from supernet_registry.clients.wire.resources import SourceDecision, SupernetVersion
from supernet_registry.search.children.drawing import draw_cells
from supernet_registry.search.errors import InvalidArgument, OptionalDependency

__all__ = ["log_decision", "log_genotype"]

_logger = logging.getLogger(__name__)


def log_decision(client: MlflowClient, run_id: str, decision: SourceDecision) -> None:
    """The whole decision with every candidate's taste curve, as `decision.json`."""
    client.log_text(run_id, json.dumps(asdict(decision), indent=2), "decision.json")


def log_genotype(client: MlflowClient, run_id: str, version: SupernetVersion) -> None:
    """The genotype as `genotype.txt`, a drawing of its cells as `cells.png`."""
    if not version.genotype:
        return
    client.log_text(run_id, version.genotype + "\n", "genotype.txt")
    with tempfile.TemporaryDirectory(prefix="supernet-registry-") as folder:
        try:
            drawing = draw_cells(version.genotype, Path(folder) / "cells.png", title=version.name)
        except (InvalidArgument, OptionalDependency) as error:
            # A run without a picture is worth more than no run.
            _logger.warning("no drawing of %s: %s", version.name, error)
            return
        client.log_artifact(run_id, str(drawing))
