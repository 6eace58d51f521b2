"""Progress where nobody watches a terminal."""

from __future__ import annotations

import pytest

from supernet_registry.clients.cli.progress import JobProgress
from supernet_registry.clients.wire.resources import EpochMetrics, JobEvent, Phase


@pytest.mark.parametrize(("epochs", "told"), [(1, [1]), (14, list(range(1, 15))), (50, [*range(3, 50, 3), 50])])
def test_a_log_gets_twenty_lines_a_phase_and_the_last_one(
    epochs: int, told: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with JobProgress() as progress:
        for epoch in range(1, epochs + 1):
            progress.on_event(JobEvent(epoch=EpochMetrics(phase=Phase.CHILD, epoch=epoch, epochs=epochs)))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("epoch ")[2].split()[0] for line in lines] == [str(epoch) for epoch in told]
