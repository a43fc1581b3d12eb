"""Counts the calls that the library makes for each chunk, and the bytes that it allocates for each byte received.

Three things are counted: calls of the library's functions (each resumption of a coroutine is a call), calls
of C functions from them, and the memory that single instructions allocate. Unlike times, the counts are the
same in every run on any machine, so a single additional call for each chunk is visible.
``python -m benchmarks.calls CASE`` names the calls of a case.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

import gradient_async
from gradient_async import AsyncGradient
from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder

from .clients import CALL
from .data import chunk, cut, event, logprob_stream, text_stream, tool_stream
from .harness import Row, counted

COUNTED = (str(Path(gradient_async.__file__).parent),)  # prefixes of the names of the library's files
# Chunks in a stream. The calls for `_FEW + MORE` chunks minus those for `_FEW` are the calls for `MORE` chunks, without
# the calls for the request.
_FEW, MORE = 400, 400
_READ = 64 * 1024
_LARGE = 4_000  # characters of text in an event; the rest of the event is small in comparison
_NOTED = 1_000  # bytes; smaller allocations are ignored

Calls: TypeAlias = Counter[tuple[str, str]]
"""Numbers of calls by kind ("call" or "c_call") and name."""


@contextmanager
def counting(counts: Calls, files: Counter[str] | None = None) -> Generator[None]:
    """Count calls of the package's functions, also by their files, and calls of C functions from them."""
    ours: dict[CodeType, bool] = {}

    def note(frame: FrameType, kind: str, argument: Any) -> None:
        code = frame.f_code
        if code not in ours:
            ours[code] = code.co_filename.startswith(COUNTED)
        if ours[code] and kind == "call":
            counts[kind, code.co_qualname] += 1
            if files is not None:
                files[code.co_filename] += 1
        elif ours[code] and kind == "c_call":
            counts[kind, f"{argument.__qualname__} from {code.co_qualname}"] += 1

    before = sys.getprofile()
    gc.disable()  # finalisers of other objects may call the package
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
        gc.enable()


def receive(protocol: Any, data: bytes) -> None:
    """Give a protocol the bytes that arrived, as an event loop does."""
    if isinstance(protocol, asyncio.BufferedProtocol):
        memoryview(protocol.get_buffer(-1))[: len(data)] = data
        protocol.buffer_updated(len(data))
    else:
        protocol.data_received(data)


class _Transport(asyncio.Transport):
    """Answers a request with a stream that arrives in the given reads, one in every other iteration of the loop."""

    _protocol: Any

    def __init__(self, protocol: asyncio.Protocol, reads: Sequence[bytes]) -> None:
        super().__init__({"peername": ("localhost", 80)})
        self._protocol = protocol
        self._reads = reads
        self._answer: asyncio.Task[None] | None = None

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        assert data
        if self._answer is None:
            self._answer = asyncio.create_task(self._send())

    async def _send(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in (head, *(b"%x\r\n%s\r\n" % (len(data), data) for data in self._reads), b"0\r\n\r\n"):
            # The reading task is woken in the next iteration of the loop, and reads in the iteration after that.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            receive(self._protocol, piece)

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self._protocol.connection_lost(None)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that connects to servers in memory."""

    def __init__(self, reads: Sequence[bytes]) -> None:
        super().__init__()
        self._reads = reads

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect to nothing."""

    async def create_connection(
        self, protocol_factory: Any, *_to: Any, sock: Any = None, **_options: Any
    ) -> Any:
        sock.close()
        protocol = protocol_factory()
        transport = _Transport(protocol, self._reads)
        protocol.connection_made(transport)
        return transport, protocol


def _decode(reads: Sequence[bytes], n: int = 1) -> None:
    """Decode and assemble."""
    decoder, assembler = ChunkDecoder(n=n), CompletionAssembler(n=n)
    for data in reads:
        for each in decoder.feed(data):
            assembler.add(each)
    assert decoder.done


def _core(reads: Sequence[bytes], counts: Calls, n: int = 1) -> None:
    with counting(counts):
        _decode(reads, n)


def _streamed(view: str) -> Callable[[Sequence[bytes], Calls], None]:
    """Read a stream through a client, one read after the other."""

    async def work(counts: Calls) -> None:
        async with AsyncGradient(base_url="http://127.0.0.1/v1", model_access_key="any") as client:
            stream: Any = await client.chat.completions.create(**CALL, stream=True)
            source = stream if view == "chunks" else getattr(stream, view)
            with counting(counts):
                async for _each in source:
                    pass
            assert stream.completed

    def run(reads: Sequence[bytes], counts: Calls) -> None:
        with asyncio.Runner(loop_factory=lambda: _Loop(reads)) as runner:
            runner.run(work(counts))

    return run


CASES: dict[str, tuple[Callable[[int], list[bytes]], int, Callable[[Sequence[bytes], Calls], None]]] = {
    "core, text, one event a read": (text_stream, 0, _core),
    "core, text, 64 kB a read": (text_stream, _READ, _core),
    "core, 8 choices, one event a read": (partial(text_stream, choices=8), 0, partial(_core, n=8)),
    "core, tool call, 64 kB a read": (tool_stream, _READ, _core),
    "core, logprobs, 64 kB a read": (logprob_stream, _READ, _core),
    **{
        f"stream, {view}, {name} a read": (text_stream, read, _streamed(view))
        for view in ("chunks", "text", "raw")
        for name, read in (("one event", 0), ("64 kB", _READ))
    },
}


def named(case: str) -> Calls:
    """Count the calls for `MORE` further chunks, by kind and name."""
    make, read, work = CASES[case]
    short: Calls = Counter()
    long: Calls = Counter()
    work(cut(make(_FEW), read), short)
    work(cut(make(_FEW + MORE), read), long)
    long.subtract(short)
    return long


def calls(case: str) -> tuple[float, float]:
    """Return the calls for each further chunk: of the library's functions, and of C functions from them."""
    totals: Counter[str] = Counter()
    for (kind, _name), number in named(case).items():
        totals[kind] += number
    return totals["call"] / MORE, totals["c_call"] / MORE


def allocated(read: int) -> float:
    """Return the bytes that decoding and assembling large texts allocates, for each byte received.

    One of these bytes is the decoded text; the others are copies of what was received.

    Args:
        read: Bytes in a read; 0 means one event in each read.
    """
    events = [event(chunk(0, {"content": "a" * _LARGE})) for _ in range(64)]
    reads = cut([*events, b"data: [DONE]\n\n"], read)
    with _allocating() as noted:
        _decode(reads)  # code is traced by the instruction from its second run on
        noted.clear()
        _decode(reads)
    return sum(noted) / sum(map(len, events))


@contextmanager
def _allocating() -> Generator[list[int], None, None]:
    """Note the larger allocations of single instructions of the package."""
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


def count(_rounds: int) -> list[Row]:
    """Calls for each further chunk, and copies of each byte received."""
    found = {case: calls(case) for case in CASES}
    rows = [counted("calls", case, ours) for case, (ours, _) in found.items()]
    rows += [counted("C calls", case, c) for case, (_, c) in found.items()]
    for name, read in (("one event", 0), ("64 kB", _READ)):
        case = f"core, large text, {name} a read"
        rows.append(counted("bytes allocated for each received", case, round(allocated(read), 2)))
    return rows


def _main(case: str) -> None:
    for (kind, name), number in named(case).most_common():
        if number >= MORE / 100:
            print(f"{number / MORE:6.2f}  {'C ' if kind == 'c_call' else '  '}{name}")


if __name__ == "__main__":
    _main(sys.argv[1])
