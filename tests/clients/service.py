"""The whole service in processes of its own, for tests of what users do with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from supernet_registry.clients.wire.protocol import HEADER

__all__ = ["ROOT", "TINY", "running_service", "write_bars"]

ROOT = Path(__file__).parents[2]
TINY = ["--channels", "4", "--epochs", "1", "--child-epochs", "1", "--batch-size", "12", "--patience", "1"]
"""Options of a search that takes a second or two."""


@contextmanager
def running_service(data_dir: Path) -> Iterator[str]:
    """`supernet-registry serve` with one worker and no MLflow on a free loopback port; yields the address."""
    command = [
        sys.executable,
        "-m",
        "supernet_registry.registry.cli",
        "serve",
        "--data-dir",
        str(data_dir),
        "--address",
        "127.0.0.1:0",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (data_dir.parent / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--no-mlflow", "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("{"), (data_dir.parent / "serve.log").read_text()
                yield json.loads(line)["address"]
            finally:
                process.send_signal(signal.SIGTERM)
                process.stdout.close()
                process.wait(timeout=60)


def write_bars(path: Path, *, seed: int, per_class: int = 12, noise: float = 60.0) -> Path:
    """A task that a tiny network learns: a bright bar, upright, lying or slanted, on noise (16×16, three classes)."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", per_class), ("val", 6), ("test", 8)):
        labels = np.tile(np.arange(3), count)
        images = rng.normal(90, noise, (len(labels), 16, 16, 1))
        for image, label in zip(images, labels, strict=True):
            at = rng.integers(3, 13)
            if label == 0:
                image[:, at] += 130
            elif label == 1:
                image[at, :] += 130
            else:
                image[np.arange(16), np.arange(16)] += 130
        arrays[f"x_{split}"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"y_{split}"] = labels.astype(np.int64)
    np.savez(path, **arrays)
    return path


class SpeaksTheProtocol(grpc.ServerInterceptor):
    """Answers of a server made for a test say the protocol's version, as a registry's do."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler
        kind = "stream_unary" if handler.request_streaming else "unary_unary"
        behaviour = getattr(handler, kind)

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            context.set_trailing_metadata((HEADER,))
            return behaviour(request, context)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(answer, handler.request_deserializer, handler.response_serializer)
