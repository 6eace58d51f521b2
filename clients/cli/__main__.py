"""`python -m clients.cli`: the user's commands without the server's."""

import sys

from supernet_registry.clients.cli import app, run

if __name__ == "__main__":
    sys.exit(run(app))
