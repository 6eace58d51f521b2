"""`python -m registry.publisher`."""

from __future__ import annotations

from registry.publisher.process import main

raise SystemExit(main())
