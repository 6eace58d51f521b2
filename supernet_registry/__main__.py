"""`python -m supernet_registry`: the command `supernet-registry`."""

from supernet_registry.registry.cli import main

if __name__ == "__main__":
    main()
