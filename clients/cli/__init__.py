"""The user's command line. `registry.cli` mounts this app and adds what runs a server.

Nothing heavy is imported until a command runs: `--help` needs neither gRPC nor numpy nor torch.
"""

from supernet_registry.clients.cli.main import app
from supernet_registry.clients.cli.running import run

__all__ = ["app", "run"]
