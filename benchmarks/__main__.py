"""`python -m benchmarks`: see `benchmarks.harness.command`."""

from benchmarks.harness.command import main
from benchmarks.harness.processes import use_one_thread

if __name__ == "__main__":
    use_one_thread()  # before a benchmark is imported, and with it numpy and torch
    raise SystemExit(main())
