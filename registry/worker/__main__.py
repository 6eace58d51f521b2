"""`python -m supernet_registry.registry.worker`: start a worker."""

import sys

from supernet_registry.registry.worker.process import main

if __name__ == "__main__":
    sys.exit(main())
