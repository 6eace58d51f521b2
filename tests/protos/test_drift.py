"""The committed Python of the wire contract is what the compiler makes of the .proto files today."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_code_matches_the_protos(tmp_path: Path) -> None:
    """Regenerating changes no byte: nobody edited a .proto and forgot `make protos`, or edited generated code."""
    generate = runpy.run_path(str(ROOT / "protos" / "generate.py"))["generate"]
    generate(tmp_path)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    committed = {
        path.relative_to(ROOT / "protos"): path.read_bytes()
        for path in (ROOT / "protos").rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }
    assert fresh.keys() == committed.keys()
    assert [str(name) for name in fresh if fresh[name] != committed[name]] == []


def test_contract_passes_buf_lint() -> None:
    """The contract follows buf's STANDARD and COMMENTS rules, but for the AIP exceptions named in buf.yaml."""
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    result = subprocess.run([str(buf), "lint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_change_that_older_programs_would_misread_is_noticed(tmp_path: Path) -> None:
    """`protos/contract.binpb` is the contract that later releases keep; a field renamed or renumbered breaks it."""
    buf = Path(sysconfig.get_path("scripts")) / "buf"

    def breaking() -> subprocess.CompletedProcess[str]:
        command = [str(buf), "breaking", "--against", str(ROOT / "protos" / "contract.binpb")]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos" / "supernet_registry", tmp_path / "protos" / "supernet_registry")
    kept = breaking()
    assert kept.returncode == 0, kept.stdout + kept.stderr
    file = tmp_path / "protos" / "supernet_registry" / "v1" / "searches.proto"
    file.write_text(file.read_text("utf-8").replace("int64 seed = 8;", "int64 seed = 80;"), "utf-8")
    broken = breaking()
    assert broken.returncode != 0
    assert '"seed"' in broken.stdout
