"""Kind of work `search`: an architecture search on one dataset, from what the registry offers."""

from __future__ import annotations

from supernet_registry.clients.wire.errors import BlobCorrupt, DigestMismatch, NotFinite, NotFound, UnsafeWeights
from supernet_registry.clients.wire.resources import SearchWork, SourcePolicy, TransferMode
from supernet_registry.clients.work.candidates import choose_candidates
from supernet_registry.clients.work.kinds.kind import Desk, Run
from supernet_registry.search.results import Candidate, PipelineResult
from supernet_registry.search.storage.weights import check_weights

__all__ = ["Search"]


class Search:
    """See `Kind`."""

    def prepare(self, desk: Desk) -> Run:
        from supernet_registry.search.runs.together import run_together

        work = desk.spec.search
        assert work is not None
        data = desk.own_images()

        def run(checkpoint: bytes | None) -> PipelineResult:
            return run_together(
                data,
                desk.space,
                desk.recipe,
                seed=desk.spec.seed,
                candidates=_candidates(desk, work) if checkpoint is None else [],
                taste=work.source_policy is not SourcePolicy.VERSION,
                transfer_mode=_transfer_mode(work).value,
                runtime=desk.runtime,
                checkpoint=checkpoint,
                listener=desk.listener,
            )

        return run


def _transfer_mode(work: SearchWork) -> TransferMode:
    unset = work.transfer_mode is TransferMode.UNSPECIFIED
    return TransferMode.WEIGHTS_AND_ALPHAS if unset else work.transfer_mode


def _candidates(desk: Desk, work: SearchWork) -> list[Candidate]:
    """What the search may start from, by the job's source policy."""
    if work.source_policy is SourcePolicy.SCRATCH or _transfer_mode(work) is TransferMode.SCRATCH:
        return []
    found = desk.nearest()
    if work.source_policy is SourcePolicy.VERSION:
        # The answer names one version a dataset; the distance is the dataset's, whichever version was asked for.
        version = desk.version(work.source_version)
        known = {c.dataset or c.version: c.ot_distance for c in reversed(found.candidates)}
        distance = known.get(version.name if version.datasets else version.dataset, 0.0)
        return [desk.download(work.source_version, distance)]
    candidates = []
    for offer in choose_candidates(found, desk.recipe.taste_candidates):
        try:
            candidate = desk.download(offer.version, offer.ot_distance, origin=offer.origin)
            check_weights(candidate.weights)
        except (BlobCorrupt, DigestMismatch, NotFound, UnsafeWeights, NotFinite) as error:
            # One bad blob must not stop the others; scratch is always left.
            desk.say(f"{offer.version} is not tasted: its weights cannot be used. {error}")
        else:
            candidates.append(candidate)
    return candidates
