"""`python -m supernet_registry.registry.transport.process`: a process of the transport pool.

The network simplex holds Python's global lock, so threads of the server would solve transports one at a time, and stop
every other call meanwhile. Processes do not. They are fresh interpreters, never forks, and speak frames over their
standard streams: a length (4 bytes, big-endian), a JSON object, and the bytes whose lengths it names under `sizes`.

    request   {"want": "bound" | "distance", "target": digest, "source": digest, "sizes": [n, m]}, sketches
    answer    {"bound": number, "sizes": []}
              {"distance": number, "converged": bool, "shape": [k, l], "sizes": [n]}, class coupling
              {"error": text, "sizes": []}

A sketch is sent only if the process does not hold it: the server keeps the names of what lies on the process's shelf,
by the same rule (`LruCache`), and a size of 0 means "the one you have". The process leaves when its standard input
ends, which the death of the server brings about.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.transport.solver import solve, stored_sketch, warm_up
from supernet_registry.search.errors import SupernetRegistryError
from supernet_registry.search.similarity import Sketch, lower_bound

__all__ = ["SHELF_BYTES", "read_frame", "write_frame"]

SHELF_BYTES = 64 << 20
"""Wire forms of the sketches that a process holds, together."""

_UNUSED = ("sklearn", "networkx")
"""POT imports them where they are installed (MLflow brings them), for parts that we do not use: 2 s and 100 MB."""
_LENGTH = struct.Struct(">I")


def write_frame(stream: IO[bytes], header: Mapping[str, Any], payloads: Sequence[bytes] = ()) -> None:
    """Write one frame and flush."""
    text = json.dumps({**header, "sizes": [len(payload) for payload in payloads]}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    stream.writelines(payloads)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Read one frame. Raises EOFError where the stream ends."""
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    header: dict[str, Any] = json.loads(_read(stream, length))
    return header, [_read(stream, size) for size in header["sizes"]]


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> int:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process when it is done
    requests = sys.stdin.buffer
    # Answers go to a stream of their own: a stray print of a library must not end up among them.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    shelf = LruCache[str, Sketch](SHELF_BYTES)
    for name in _UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails, which POT is prepared for
    warm_up()  # before the first request, which should not wait for it
    try:
        write_frame(answers, {"ready": True})
        while True:
            header, (target, source) = read_frame(requests)
            write_frame(answers, *_answer(shelf, header, target, source))
    except (EOFError, BrokenPipeError):
        return 0


def _answer(
    shelf: LruCache[str, Sketch], header: Mapping[str, Any], target: bytes, source: bytes
) -> tuple[dict[str, Any], list[bytes]]:
    try:
        pair = _sketch(shelf, header["target"], target), _sketch(shelf, header["source"], source)
        if header["want"] == "bound":
            return {"bound": lower_bound(*pair)}, []
        solution = solve(*pair)
    except SupernetRegistryError as error:
        return {"error": str(error)}, []
    coupling = np.ascontiguousarray(solution.class_coupling, dtype="<f8")
    answer = {"distance": solution.distance, "converged": solution.converged, "shape": coupling.shape}
    return answer, [coupling.tobytes()]


def _sketch(shelf: LruCache[str, Sketch], digest: str, data: bytes) -> Sketch:
    kept = shelf.get(digest)
    if not data and kept is not None:
        return kept
    sketch = stored_sketch(data, digest)
    shelf.put(digest, sketch, weight=len(data))
    return sketch


if __name__ == "__main__":
    sys.exit(main())
