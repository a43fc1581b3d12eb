"""Counts, not times: calls that the library makes for each chunk, and bytes that it allocates for each received.

Counted are calls of the library's functions (a coroutine that goes on counts as called again), calls of C functions
from them, and memory that single instructions of theirs take. All of this is the same in every run, so that one call
more for each chunk shows, however busy the machine is. ``python -m benchmarks.calls CASE`` names the calls of a case.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

import gradient_async
from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder

from .data import chunk_event, logprob_stream, text_stream, tool_stream
from .memory_server import session_of

__all__ = ["CASES", "COUNTED", "MORE", "allocated", "calls", "named", "run"]

COUNTED = (str(Path(gradient_async.__file__).parent),)  # files whose names begin so are the library's
_FEW, MORE = 400, 400  # chunks; what more of them take is their own, not the request's
_READ = 64 * 1024
_LARGE = 4_000  # characters of an event whose bytes are counted, so that all else about it is small
_NOTED = 1_000  # bytes that an instruction takes, from which they count

Calls: TypeAlias = Counter[tuple[str, str]]  # by kind and name


@contextmanager
def _counting(counts: Calls) -> Generator[None, None, None]:
    """Count calls within the package, and from it."""
    ours: dict[CodeType, bool] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code not in ours:
            ours[code] = code.co_filename.startswith(COUNTED)
        if not ours[code]:
            return
        if event == "call":
            counts["call", code.co_qualname] += 1
        elif event == "c_call":
            counts["c_call", f"{argument.__qualname__} from {code.co_qualname}"] += 1

    before = sys.getprofile()
    gc.disable()  # finalisers of others may call us
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
        gc.enable()


def _core(reads: Sequence[bytes], counts: Calls) -> None:
    """Decode and assemble."""
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    with _counting(counts):
        for data in reads:
            for chunk in decoder.feed(data):
                assembler.add(chunk)
    assert decoder.done


def _streamed(view: str) -> Callable[[Sequence[bytes], Calls], None]:
    """Read a stream through a client, one read after the other."""

    async def work(reads: Sequence[bytes], counts: Calls) -> None:
        async with (
            session_of(reads) as session,
            gradient_async.AsyncGradient(
                base_url="http://localhost/v1", model_access_key="any", session=session
            ) as client,
        ):
            stream: Any = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
            source = stream if view == "chunks" else getattr(stream, view)
            with _counting(counts):
                async for _each in source:
                    pass
            assert stream.completed

    return lambda reads, counts: asyncio.run(work(reads, counts))


CASES: dict[str, tuple[Callable[[int], list[bytes]], int, Callable[[Sequence[bytes], Calls], None]]] = {
    "core, text, one event a read": (text_stream, 0, _core),
    "core, text, 64 kB a read": (text_stream, _READ, _core),
    "core, tool call, 64 kB a read": (tool_stream, _READ, _core),
    "core, logprobs, 64 kB a read": (logprob_stream, _READ, _core),
    "stream, chunks, one event a read": (text_stream, 0, _streamed("chunks")),
    "stream, chunks, 64 kB a read": (text_stream, _READ, _streamed("chunks")),
    "stream, text, one event a read": (text_stream, 0, _streamed("text")),
    "stream, text, 64 kB a read": (text_stream, _READ, _streamed("text")),
    "stream, raw, one event a read": (text_stream, 0, _streamed("raw")),
    "stream, raw, 64 kB a read": (text_stream, _READ, _streamed("raw")),
}


def _cut(events: list[bytes], read: int) -> list[bytes]:
    if not read:
        return events
    wire = b"".join(events)
    return [wire[at : at + read] for at in range(0, len(wire), read)]


def named(case: str) -> Calls:
    """Count what more chunks take, by kind and name of the calls, for so many of them as `MORE` says.

    Args:
        case: One of `CASES`.
    """
    make, read, work = CASES[case]
    short: Calls = Counter()
    long: Calls = Counter()
    work(_cut(make(_FEW), read), short)
    work(_cut(make(_FEW + MORE), read), long)
    long.subtract(short)
    return long


def calls(case: str) -> tuple[float, float]:
    """Return how many calls each further chunk takes: of our functions, and of C functions from them.

    Args:
        case: One of `CASES`.
    """
    totals: Counter[str] = Counter()
    for (kind, _name), count in named(case).items():
        totals[kind] += count
    return totals["call"] / MORE, totals["c_call"] / MORE


def allocated(read: int) -> float:
    """Return how many bytes are allocated for each byte received, to decode and assemble large pieces of text.

    One is what the decoded text itself takes; the others are copies of what was received.

    Args:
        read: Bytes of a read; 0 is one event.
    """
    events = [chunk_event("a" * _LARGE) for _ in range(64)]
    reads = _cut(events, read)

    def once() -> None:
        decoder, assembler = ChunkDecoder(), CompletionAssembler()
        for data in reads:
            for chunk in decoder.feed(data):
                assembler.add(chunk)
        assert decoder.events == len(events)

    with _allocating() as noted:
        once()  # code is seen instruction by instruction only after it has run so once
        noted.clear()
        once()
    return sum(noted) / sum(map(len, events))


@contextmanager
def _allocating() -> Generator[list[int], None, None]:
    """Note what each single instruction of the package allocates, if that is much."""
    noted: list[int] = []
    last = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal last
        now, peak = tracemalloc.get_traced_memory()
        if event in {"opcode", "return"} and peak - last >= _NOTED:
            noted.append(peak - last)
        if event == "call":
            if not frame.f_code.co_filename.startswith(COUNTED):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        tracemalloc.reset_peak()
        last = now
        return trace

    before = sys.gettrace()
    tracemalloc.start()
    sys.settrace(trace)
    try:
        yield noted
    finally:
        sys.settrace(before)
        tracemalloc.stop()


def run(_rounds: int) -> list[dict[str, Any]]:
    """Count; return a row a case."""
    rows: list[dict[str, Any]] = []
    for case in CASES:
        ours, c = calls(case)
        rows.append({"case": case, "calls": ours, "c_calls": c})
    for name, read in (("one event", 0), ("64 kB", _READ)):
        rows.append({"case": f"core, large text, {name} a read", "bytes_per_byte": round(allocated(read), 2)})
    return rows


def _main(case: str) -> None:
    for (kind, name), count in named(case).most_common():
        if count >= MORE / 100:
            print(f"{count / MORE:6.2f}  {'C ' if kind == 'c_call' else '  '}{name}")


if __name__ == "__main__":
    _main(sys.argv[1])
