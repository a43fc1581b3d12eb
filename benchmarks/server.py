"""The server of the benchmarks, in its own process: sends prepared replies as fast as Python can.

The first part of a request's path names the reply, such as ``/text-1000-32/chat/completions``:

=================== ======================================================================================
text-TOKENS-EVENTS  a stream of TOKENS tokens, EVENTS events in each HTTP chunk
chat-TOKENS-MS      a stream with an event every MS milliseconds, at the same moment for all such streams
paced-TOKENS-MS-N   the same, but N such streams have their events at evenly spread moments
first-MS            a stream whose first event comes after MS milliseconds; its text is the time of its write
broken-MS           a stream with an error event after MS milliseconds
idle                a stream that falls silent after its first event
tools-CALLS         a stream of CALLS tool calls, or one of 20 tokens if the request has their results
small-BYTES         a completion of BYTES bytes
large-TOKENS        a completion of TOKENS tokens with log probabilities
status-STATUS       an error with the status STATUS
=================== ======================================================================================
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from .data import call_stream, chunk, event, large_completion, small_completion, text_stream

_ERROR = b'{"error":{"message":"not today","type":"invalid_request_error","code":"not_today"}}'
_END = b"0\r\n\r\n"


def _head(kind: str, framing: str, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} Any\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode()


_STREAM_HEAD = _head("text/event-stream", "Transfer-Encoding: chunked")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.lru_cache
def pieces(tokens: int, together: int = 1) -> list[bytes]:
    """Make the HTTP chunks of a stream, the first with the head, the last with the end of the body."""
    events = text_stream(tokens)
    groups = [b"".join(events[start : start + together]) for start in range(0, len(events), together)]
    chunks = [*map(_chunked, groups)]
    chunks[0] = _STREAM_HEAD + chunks[0]
    chunks[-1] += _END
    return chunks


@functools.lru_cache
def reply(kind: str, *numbers: int) -> bytes:
    """Make a whole reply.

    Raises:
        ValueError: If there is no reply of that kind.
    """
    status = 200
    if kind == "text":
        return b"".join(pieces(*numbers))
    if kind == "tools":
        return _STREAM_HEAD + b"".join(map(_chunked, call_stream(*numbers))) + _END
    if kind == "small":
        body = small_completion(*numbers)
    elif kind == "large":
        body = large_completion(*numbers)
    elif kind == "status":
        status, body = numbers[0], _ERROR
    else:
        raise ValueError(f"this server has no reply {kind!r}")
    return _head("application/json", f"Content-Length: {len(body)}", status) + body


class _Clock:
    """Sends the next chunk of each of its replies at every tick."""

    def __init__(self, gap: float, phase: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._gap = gap
        self._due = (self._loop.time() // gap + 1 + phase) * gap
        self._loop.call_at(self._due, self._tick)
        self.replies: dict[asyncio.Transport, Iterator[bytes]] = {}

    def _tick(self) -> None:
        for transport, chunks in [*self.replies.items()]:
            data = next(chunks, None)
            if data is None or transport.is_closing():
                del self.replies[transport]
            else:
                transport.write(data)
        self._due += self._gap
        self._loop.call_at(self._due, self._tick)


class _Selector(selectors.DefaultSelector):
    """Makes the loop's timers exact: epoll alone waits for whole milliseconds, rounded up."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            if timeout < 0.001:
                time.sleep(timeout)
            timeout = timeout // 0.001 * 0.001
        return super().select(timeout)


class _Connection(asyncio.Protocol):
    """Answers each request once the whole request has arrived."""

    transport: asyncio.Transport

    def __init__(self, clock: Callable[[float, float], _Clock], numbers: Iterator[int]) -> None:
        self._received = b""
        self._clock = clock
        self._numbers = numbers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            lines = self._received[:end].split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line[:15].lower() == b"content-length:"), 0)
            if len(self._received) < end + 4 + length:
                return
            body, self._received = self._received[end + 4 :][:length], self._received[end + 4 + length :]
            kind, *numbers = lines[0].split(b"/")[1].decode().split("-")
            if kind == "tools" and b'"tool_call_id"' in body:
                kind, numbers = "text", ["20"]
            self._answer(kind, *map(int, numbers))

    def _answer(self, kind: str, *numbers: int) -> None:
        write = self.transport.write
        later = asyncio.get_running_loop().call_later
        if kind == "chat":
            tokens, gap = numbers
            self._clock(gap / 1000, 0.0).replies[self.transport] = iter(pieces(tokens))
        elif kind == "paced":
            tokens, gap, streams = numbers
            phase = next(self._numbers) % streams / streams
            first, *chunks = pieces(tokens)
            write(first)
            self._clock(gap / 1000, phase).replies[self.transport] = iter(chunks)
        elif kind == "first":
            pause = numbers[0] / 1000
            write(_STREAM_HEAD)
            later(pause, lambda: write(_chunked(event(chunk(0, {"content": str(time.monotonic_ns())})))))
            later(2 * pause, write, _chunked(b"".join(text_stream(1)[2:])) + _END)
        elif kind == "broken":
            write(pieces(1)[0])
            later(numbers[0] / 1000, write, _chunked(b"data: " + _ERROR + b"\n\n"))
        elif kind == "idle":
            write(pieces(1)[0])
        else:
            write(reply(kind, *numbers))


def allow_connections() -> None:
    """Raise this process's limit of open connections as far as the system allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve() -> None:
    allow_connections()
    loop = asyncio.get_running_loop()
    clock, numbers = functools.lru_cache(maxsize=None)(_Clock), itertools.count()
    server = await loop.create_server(lambda: _Connection(clock, numbers), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started this one


@contextmanager
def running_server(module: str = __name__) -> Generator[str]:
    """Run a server module in its own process; give its URL, which is the first line that the module prints.

    Raises:
        RuntimeError: If the server fails.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        try:
            process.communicate(timeout=10)  # closes the server's standard input, which makes it end
        except subprocess.TimeoutExpired:
            process.kill()
    if process.wait():
        raise RuntimeError(f"{module} exited with {process.returncode}")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector())) as runner:
        runner.run(_serve())
