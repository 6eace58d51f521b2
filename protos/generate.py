"""Generates the Python of the wire contract: ``python protos/generate.py [OUTPUT_DIRECTORY]``.

The generated files are committed; `tests/protos/test_drift.py` regenerates them and compares. The compiler is
the oldest that we support (see `constraints.txt`): generated code refuses to run on an older runtime
than its compiler's, and promises to run on newer ones.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parent


def generate(output: Path) -> None:
    """Write `*_pb2.py`, `*_pb2.pyi`, `*_pb2_grpc.py` and `*_pb2_grpc.pyi` below `output`."""
    scripts = Path(sysconfig.get_path("scripts"))
    sources = sorted(ROOT.glob("supernet_registry/v1/*.proto"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"-I{ROOT}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out=quiet:{output}",
            f"--mypy_grpc_out=quiet:{output}",
            *[str(source.relative_to(ROOT)) for source in sources],
        ],
        check=True,
        cwd=ROOT,
    )


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
