"""The server of the benchmarks, in a process of its own: canned replies, as fast as Python sends them.

The first part of the path says what to send: ``/text-1000-32/chat/completions`` streams 1,000 tokens of text,
32 events in each HTTP chunk; ``/paced-50-10-100/...`` sends 50 events, one every 10 ms, and does so for 100 streams,
no two at a time; ``/first-5/...`` tells the time after 5 ms, and ends; ``/idle/...`` sends one event and falls silent;
``/small-300/...`` is a completion of about 300 bytes; ``/large-4000/...`` one of 4,000 tokens with log probabilities.
"""

from __future__ import annotations

import asyncio
import functools
import resource
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import msgspec

from .data import large_completion, text_stream, time_event
from .pacer import Paced, Pacer

__all__ = ["allow_connections", "running_server"]

_LINE = b"\r\n"


def _head(kind: str, framing: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode()


_STREAM_HEAD = _head("text/event-stream", "Transfer-Encoding: chunked")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.lru_cache
def reply(workload: str) -> bytes:
    """Make a whole reply.

    Args:
        workload: ``text-TOKENS-EVENTS``: a stream, so many events in an HTTP chunk. ``small-BYTES``: a
            completion. ``large-TOKENS``: a completion with log probabilities.

    Raises:
        ValueError: If it is none of these.
    """
    kind, *numbers = workload.split("-")
    if kind == "text":
        tokens, together = map(int, numbers)
        return b"".join(pieces(tokens, together))
    if kind == "small":
        (size,) = map(int, numbers)
        return _whole(small(size))
    if kind == "large":
        (tokens,) = map(int, numbers)
        return _whole(large_completion(tokens))
    raise ValueError(f"{workload!r} is no workload")


@functools.lru_cache
def pieces(tokens: int, together: int) -> list[bytes]:
    """Make a streamed reply of HTTP chunks: the head comes with the first, the end with the last.

    Args:
        tokens: How many tokens of text.
        together: Events in an HTTP chunk.
    """
    events = text_stream(tokens)
    groups = [b"".join(events[at : at + together]) for at in range(0, len(events), together)]
    chunks = [_chunked(group) for group in groups]
    chunks[0] = _STREAM_HEAD + chunks[0]
    chunks[-1] += b"0\r\n\r\n"
    return chunks


def small(size: int) -> bytes:
    """Make a completion of at least so many bytes."""
    body = {
        "id": "chatcmpl-0f3c9f6e5b7a4d21",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": "llama3.3-70b-instruct",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21},
    }
    empty = len(msgspec.json.encode(body))
    body["choices"] = [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a" * max(0, size - empty)},
            "finish_reason": "stop",
        }
    ]
    return msgspec.json.encode(body)


def _whole(body: bytes) -> bytes:
    return _head("application/json", f"Content-Length: {len(body)}") + body


class _Connection(asyncio.Protocol):
    """Answers each request once all of it is there."""

    transport: asyncio.Transport

    def __init__(self, pacer: Pacer) -> None:
        self._received = b""
        self._pacer = pacer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._received[:end]
            lines = head.split(_LINE)
            length = next((int(line[15:]) for line in lines if line[:15].lower() == b"content-length:"), 0)
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            workload = lines[0].split(b" ", 2)[1].split(b"/")[1].decode()
            kind, *numbers = workload.split("-")
            if kind == "paced":
                self._pace(*map(int, numbers))
            elif kind == "first":
                self._tell_time(*map(int, numbers))
            elif kind == "idle":
                self.transport.write(pieces(1, 1)[0])
            else:
                self.transport.write(reply(workload))

    def _pace(self, events: int, gap: int, streams: int) -> None:
        """Send events one by one.

        Args:
            events: How many.
            gap: Milliseconds between them.
            streams: Among how many streams the gap is shared.
        """
        head, *chunks = pieces(events, 1)
        self.transport.write(head)
        self._pacer.add(Paced(self.transport, chunks), gap / 1000, streams)

    def _tell_time(self, milliseconds: int) -> None:
        """Send the head; then an event that is the time, and then the end.

        Args:
            milliseconds: Before the event, and after it.
        """
        pause = milliseconds / 1000
        loop = asyncio.get_running_loop()
        self.transport.write(_STREAM_HEAD)
        loop.call_later(pause, self._write_time)
        loop.call_later(
            2 * pause, self.transport.write, _chunked(b"".join(text_stream(1)[2:])) + b"0\r\n\r\n"
        )

    def _write_time(self) -> None:
        self.transport.write(_chunked(time_event(time.monotonic_ns())))


def allow_connections() -> None:
    """Let this process hold as many connections as it may."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve() -> None:
    allow_connections()
    loop = asyncio.get_running_loop()
    pacer = Pacer()
    server = await loop.create_server(lambda: _Connection(pacer), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until who started it is gone


@contextmanager
def running_server() -> Generator[str, None, None]:
    """Run the server; give its URL, without the workload."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__ if __name__ != "__main__" else "benchmarks.server"],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.communicate(timeout=10)


if __name__ == "__main__":
    asyncio.run(_serve())
