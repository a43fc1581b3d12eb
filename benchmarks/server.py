"""The server of the benchmarks, in a process of its own: canned replies, as fast as Python sends them.

The first part of the path says what to send: ``/text-1000-32/chat/completions`` streams 1,000 tokens of text,
32 events in each HTTP chunk; ``/paced-50-10/...`` sends 50 events, one every 10 ms; ``/small-300/...`` is a
completion of about 300 bytes; ``/large-4000/...`` one of 4,000 tokens with log probabilities.
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import msgspec

from .data import large_completion, text_stream

__all__ = ["running_server"]

_LINE = b"\r\n"


def _head(kind: str, framing: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode()


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
    chunks = [b"%x\r\n%s\r\n" % (len(group), group) for group in groups]
    chunks[0] = _head("text/event-stream", "Transfer-Encoding: chunked") + chunks[0]
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

    def __init__(self) -> None:
        self._received = b""

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
            if workload.startswith("paced-"):
                self._pace(*map(int, workload.split("-")[1:]))
            else:
                self.transport.write(reply(workload))

    def _pace(self, events: int, gap: int) -> None:
        """Send events one by one.

        Args:
            events: How many.
            gap: Milliseconds between them.
        """
        chunks = pieces(events, 1)
        loop = asyncio.get_running_loop()
        started = loop.time()

        def send(index: int) -> None:
            if self.transport.is_closing():
                return
            self.transport.write(chunks[index])
            if index + 1 < len(chunks):
                loop.call_at(started + (index + 1) * gap / 1000, send, index + 1)

        send(0)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
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
