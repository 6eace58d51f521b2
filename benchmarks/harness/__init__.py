"""What every benchmark shares: command line, runs, comparisons, reports."""
