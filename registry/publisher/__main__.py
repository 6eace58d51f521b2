"""`python -m supernet_registry.registry.publisher`."""

from __future__ import annotations

from supernet_registry.registry.publisher.process import main

raise SystemExit(main())
