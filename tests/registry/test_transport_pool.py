"""The transport pool: the same distances wherever they are computed, whatever becomes of its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from supernet_registry.registry.transport.pool import TransportPool
from supernet_registry.search import errors
from supernet_registry.search.similarity import Sketch, lower_bound, otdd

ROOT = Path(__file__).parents[2]


def sketch(seed: int, *, encoder_id: str = "e", points: int = 24) -> Sketch:
    """Three classes in four dimensions."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), points // 3)
    return Sketch(
        features=random.normal(size=(points, 4)).astype(np.float32),
        labels=labels,
        class_means=random.normal(size=(3, 4)).astype(np.float32),
        class_factors=random.normal(size=(3, 2, 4)).astype(np.float32),
        class_counts=np.full(3, points, dtype=np.int64),
        encoder_id=encoder_id,
    )


TARGET = sketch(0)
SOURCES = [sketch(seed) for seed in range(1, 7)]
EXACT = [otdd(TARGET, source) for source in SOURCES]


@contextlib.contextmanager
def running_pool(processes: int) -> Iterator[TransportPool]:
    """A pool whose processes are up."""
    with contextlib.closing(TransportPool(processes)) as pool:
        pool.warm_up()
        while len(pool.process_ids) < processes:
            time.sleep(0.05)
            pool.solve(TARGET, SOURCES[0]).result()
        yield pool


def solve_all(pool: TransportPool) -> list[float | None]:
    futures = [pool.solve(TARGET, source) for source in SOURCES]
    return [future.result().distance for future in futures]


@pytest.mark.parametrize("processes", [0, 2])
def test_a_pool_solves_what_otdd_does(processes: int) -> None:
    with running_pool(processes) as pool:
        assert pool.size == max(1, processes)
        for source, exact in zip(SOURCES, EXACT, strict=True):
            solution = pool.solve(TARGET, source).result()
            assert solution.distance == pytest.approx(exact.distance, rel=1e-12)
            assert solution.converged
            np.testing.assert_allclose(solution.class_coupling, exact.class_coupling, atol=1e-12)
            assert pool.bound(TARGET, source).result() == pytest.approx(lower_bound(TARGET, source), rel=1e-6)


def test_a_cold_pool_makes_nobody_wait_for_its_processes() -> None:
    """They take a second to start; until then the server itself solves."""
    with contextlib.closing(TransportPool(1)) as pool:
        assert solve_all(pool) == pytest.approx([exact.distance for exact in EXACT])


def test_killed_processes_lose_no_transport_and_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with running_pool(2) as pool:
        before = pool.process_ids
        for number in before:
            os.kill(number, signal.SIGKILL)
        assert solve_all(pool) == pytest.approx([exact.distance for exact in EXACT])
        assert "died" in caplog.text
        while len(pool.process_ids) < 2 or set(pool.process_ids) & set(before):
            time.sleep(0.05)
            pool.solve(TARGET, SOURCES[0]).result()


def test_a_process_killed_in_the_middle_of_a_transport_loses_nothing() -> None:
    large = sketch(1, points=1500), sketch(2, points=1500)
    with running_pool(1) as pool:
        future = pool.solve(*large)
        while not future.running():
            pass
        (number,) = pool.process_ids
        os.kill(number, signal.SIGKILL)
        assert future.result().distance == pytest.approx(otdd(*large).distance)


@pytest.mark.parametrize("processes", [0, 1])
def test_sketches_that_do_not_compare_raise_the_same_error_from_anywhere(processes: int) -> None:
    with running_pool(processes) as pool:
        future = pool.solve(TARGET, sketch(1, encoder_id="other"))
        with pytest.raises(errors.EncoderMismatch):
            future.result()
        assert solve_all(pool) == pytest.approx([exact.distance for exact in EXACT])


@pytest.mark.parametrize("processes", [0, 1])
def test_closing_leaves_no_process_and_refuses_new_work(processes: int) -> None:
    with running_pool(processes) as pool:
        numbers = pool.process_ids
    assert not any(is_alive(number) for number in numbers)
    with pytest.raises(errors.Draining):
        pool.solve(TARGET, SOURCES[0])


def test_closing_does_not_wait_for_long_transports() -> None:
    large = sketch(1, points=3000), sketch(2, points=3000)
    with running_pool(1) as pool:
        running, waiting = pool.solve(*large), pool.solve(*large)
        while not running.running():
            pass
    with pytest.raises(errors.Draining):
        running.result()
    assert waiting.cancelled()


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_leave_when_the_server_is_killed() -> None:
    program = textwrap.dedent("""
        import sys, time
        from tests.registry.test_transport_pool import running_pool
        with running_pool(2) as pool:
            print(*pool.process_ids, flush=True)
            time.sleep(600)
    """)
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert server.stdout is not None
    numbers = [int(number) for number in server.stdout.readline().split()]
    assert len(numbers) == 2
    server.kill()
    server.wait()
    server.stdout.close()
    while any(is_alive(number) for number in numbers):
        time.sleep(0.01)


def test_a_transport_process_imports_neither_torch_nor_faiss_nor_the_service() -> None:
    code = (
        "import supernet_registry.registry.transport.process, ot, sys;"
        "print(*{'.'.join(name.split('.')[:3]) for name in sys.modules})"
    )
    environment = {**os.environ, "POT_BACKEND_DISABLE_PYTORCH": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert set(result.stdout.split()) & {"torch", "faiss", "grpc", "sqlalchemy", "mlflow"} == set()
