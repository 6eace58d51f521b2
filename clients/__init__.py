"""Clients of the registry, task streams, running a leased job, the command line. `supernet_registry` is their face."""
