"""Running a leased job: attempts, leases, and one file a kind of work."""
