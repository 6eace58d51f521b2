"""Kind of work `generalist`: pretrain over the job's datasets, all of which come from the registry."""

from __future__ import annotations

from supernet_registry.clients.work.kinds.kind import Desk, Run
from supernet_registry.search.results import PipelineResult

__all__ = ["Generalist"]


class Generalist:
    """See `Kind`."""

    def prepare(self, desk: Desk) -> Run:
        from supernet_registry.search.runs.generalist import pretrain_generalist

        work = desk.spec.generalist
        assert work is not None
        data = [desk.images(name) for name in work.datasets]

        def run(checkpoint: bytes | None) -> PipelineResult:
            base = desk.download(work.base_version, 0.0) if work.base_version and checkpoint is None else None
            return pretrain_generalist(
                data,
                desk.space,
                desk.recipe,
                seed=desk.spec.seed,
                base=base,
                replay=not work.without_replay,
                runtime=desk.runtime.alone(),
                checkpoint=checkpoint,
                listener=desk.listener,
            ).result

        return run
