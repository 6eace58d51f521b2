"""`supernet-registry serve`: it starts, keeps alive, drains; and the commands beside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.resources import Supernet
from supernet_registry.registry.cli import app, run
from supernet_registry.registry.server.auth import Access, Role
from supernet_registry.registry.server.lock import read_server_file

COMMAND = [sys.executable, "-m", "supernet_registry.registry.cli"]


@contextlib.contextmanager
def served(data_dir: Path, *options: str) -> Iterator[tuple[subprocess.Popen, dict]]:
    """`serve` as a process: (process, what it printed when it was up)."""
    argv = [*COMMAND, "serve", "--data-dir", str(data_dir), "--address", "127.0.0.1:0", "--json", *options]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    while is_running(pid):
        time.sleep(0.02)


def test_serve_restarts_a_killed_server_at_its_address_and_drains_on_sigterm(tmp_path):
    with served(tmp_path, "--no-worker", "--no-mlflow") as (process, started):
        assert (started["workers"], started["mlflow_ui"], started["pid"]) == (0, "", process.pid)
        with RegistryClient(started["address"]) as client:
            name = client.create_supernet("kept", Supernet()).name
            first = read_server_file(tmp_path)["pid"]
            os.kill(first, signal.SIGKILL)
            assert client.get_supernet(name).name == name, "the client waits for the restarted server"
        second = read_server_file(tmp_path)
        assert second["pid"] != first
        assert second["address"] == started["address"]
        process.terminate()
        assert process.wait() == 0
        assert not is_running(second["pid"])
        assert "ended with code -9; starting it again" in process.stderr.read()


def test_children_leave_when_the_supervisor_is_killed(tmp_path):
    with served(tmp_path, "--no-worker") as (process, started):
        assert started["mlflow_ui"].startswith("mlflow ui --backend-store-uri sqlite:")
        children = [
            int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _parent_of(stat) == process.pid
        ]
        assert len(children) == 2  # server and publisher
        process.kill()
        process.wait()
        for child in children:
            wait_until_gone(child)


def _parent_of(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_serve_says_why_the_server_could_not_start(tmp_path):
    argv = [*COMMAND, "serve", "--data-dir", str(tmp_path), "--address", "0.0.0.0:0", "--no-worker", "--no-mlflow"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "can be reached from other machines" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_serve_on_the_same_folder_is_refused(tmp_path, registry_server):
    folder = str(registry_server.settings.data_dir)
    argv = [*COMMAND, "serve", "--data-dir", folder, "--address", "127.0.0.1:0", "--no-worker", "--no-mlflow"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 4
    assert "Another server" in ended.stderr


def test_a_token_is_made_for_the_tokens_file(tmp_path, capsys):
    assert run(app, ["token", "ann", "--role", "writer", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    path = tmp_path / "tokens"
    path.write_text(made["line"])
    principal = Access(path).identify([("authorization", f"Bearer {made['token']}")])
    assert (principal.name, principal.role) == ("ann", Role.WRITER)


@pytest.mark.parametrize("arguments", [["token", "two words"], ["token", "ann", "--role", "owner"]])
def test_a_token_needs_a_word_and_a_role(arguments, capsys):
    assert run(app, arguments) == 2
    assert "Roles: reader, writer, worker, admin." in capsys.readouterr().err


def test_db_upgrade_brings_an_empty_database_to_this_release_and_then_has_nothing_to_do(tmp_path, capsys):
    for _ in range(2):
        assert run(app, ["db", "upgrade", "--data-dir", str(tmp_path), "--json"]) == 0
    first, second = (json.loads(part) for part in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0"))
    assert first["after"] == second["before"] == second["after"]


@pytest.mark.parametrize("arguments", [["serve"], ["db", "upgrade"], ["token", "ann"]])
def test_a_light_install_says_which_extra_a_command_lacks(arguments):
    """And its `--help` works."""
    script = (
        "import sys\n"
        "for name in ('sqlalchemy', 'pydantic_settings', 'alembic', 'faiss', 'torch'): sys.modules[name] = None\n"
        "from supernet_registry.registry.cli import app, run\n"
        f"assert run(app, ['--help']) == 0\nsys.exit(run(app, {arguments!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 5, ended.stderr
    assert 'pip install "supernet-registry[server]"' in ended.stderr
