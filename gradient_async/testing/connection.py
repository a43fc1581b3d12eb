"""One connection of the server: reads bytes, makes socket writes, and notices at once when the peer closes."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import cast

from .request import Request

MAX_UNREAD = 1024 * 1024
"""Unread bytes at which reading pauses. Only a peer that sends while the server answers reaches this limit."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")


class Signal(asyncio.Event):
    """Wakes tasks that wait for a condition on plain attributes; call `set` after each change of an attribute."""

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds. Several tasks may wait for different conditions."""
        while not condition():
            self.clear()
            await self.wait()


class Connection(asyncio.Protocol):
    """One accepted connection, as a handler uses it.

    Attributes:
        number: Number of the connection, counted from 1 in the order of accepting.
        request: The request that is being answered, or was answered last; None before the first.
        sent: Bytes written since that request was received.
    """

    # A protocol rather than a pair of streams: asyncio tells a protocol at once that the peer has closed, even while
    # a handler waits for something else.

    def __init__(
        self, number: int, on_open: Callable[[Connection], None], on_gone: Callable[[Connection], None]
    ) -> None:
        self.number = number
        self.request: Request | None = None
        self.sent = 0
        # Whether a handler is running. `Request.closed_at` is set only if the peer closes during that time.
        self.answering = False
        self._on_open = on_open
        self._on_gone = on_gone
        self._gone = False  # whether the peer has closed, or the transport is lost or closed
        self._closed_by_us = False  # whether this side has sent FIN or RST
        self._lost = False  # whether the transport has closed the socket
        self._writable = True
        self._unread = bytearray()
        self._changed = Signal()

    def __repr__(self) -> str:
        return f"<Connection {self.number}{', closed' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether either side has closed."""
        return self._gone or self._closed_by_us

    @property
    def abandoned(self) -> bool:
        """Whether the peer has closed first, or the connection was lost."""
        return self._gone and not self._closed_by_us

    # Methods that handlers call

    async def write(self, data: bytes) -> None:
        """Make one socket write and wait until the kernel has taken every byte.

        Nagle's algorithm is off, so the bytes leave at once. Two writes may still reach a slow peer as one read;
        sleep between them if the difference matters.

        Args:
            data: Bytes to send unchanged; no framing is added.

        Raises:
            ConnectionResetError: If the peer has closed. A handler need not catch the error: the server takes it
                as the end of the conversation.
            RuntimeError: If this side has closed before, which is a mistake in the script or handler.
        """
        if not self.sent and self.request is not None and (start := _STATUS_LINE.match(data)):
            self.request.status = int(start[1])
        self.sent += len(data)
        if self._closed_by_us:
            raise RuntimeError("write after close: nothing can be written once CLOSE or RESET was played")
        if not self._gone:
            self.transport.write(data)
            # uvloop joins all writes of one iteration of the loop; the sleep gives each write an iteration of its own.
            await asyncio.sleep(0)
            await self._changed.wait_until(lambda: self._writable or self._gone)
        if self._gone:
            raise ConnectionResetError("the peer has closed the connection")

    async def sleep(self, seconds: float) -> None:
        """Wait, unless the peer closes the connection first.

        Args:
            seconds: How long to wait; 0 lets other tasks run once.

        Raises:
            ConnectionResetError: As soon as the peer closes.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self.wait_closed()
        except TimeoutError:
            return
        raise ConnectionResetError("the peer has closed the connection")

    async def wait_closed(self) -> None:
        """Write nothing until the peer closes."""
        await self._changed.wait_until(lambda: self._gone)

    def close(self) -> None:
        """Close: FIN after everything written so far."""
        self._closed_by_us = True
        self.transport.close()

    def half_close(self) -> None:
        """Close this direction only: send FIN, while the peer may continue to send."""
        self._closed_by_us = True
        self.transport.write_eof()

    def reset(self) -> None:
        """Break the connection: send RST in place of FIN; bytes that are still in this side's buffers are dropped."""
        self._closed_by_us = True
        if not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    # Methods that the service calls

    async def read_until(self, separator: bytes, limit: int) -> bytes | None:
        """Read up to and including a separator; return None if the first ``limit`` bytes hold none.

        Raises:
            ConnectionResetError: If the peer closes before.
        """
        while (found := self._unread.find(separator, 0, limit)) < 0:
            if len(self._unread) >= limit:
                return None
            await self._read_more()
        return self._take(found + len(separator))

    async def first_byte(self) -> int:
        """Wait for the next byte, which stays unread.

        Raises:
            ConnectionResetError: If the peer closes before.
        """
        while not self._unread:
            await self._read_more()
        return self._unread[0]

    async def read_exactly(self, count: int) -> bytes:
        """Read ``count`` bytes.

        Raises:
            ConnectionResetError: If the peer closes before.
        """
        while len(self._unread) < count:
            await self._read_more()
        return self._take(count)

    async def _read_more(self) -> None:
        if self._gone:
            raise ConnectionResetError("the peer has closed the connection")
        length = len(self._unread)
        self.transport.resume_reading()
        await self._changed.wait_until(lambda: self._gone or len(self._unread) > length)

    def _take(self, count: int) -> bytes:
        data = bytes(self._unread[:count])
        del self._unread[:count]
        # A paused transport does not report that the peer has closed.
        if len(self._unread) <= MAX_UNREAD:
            self.transport.resume_reading()
        return data

    async def drop_input(self) -> None:
        """Read and drop bytes until the peer closes: bytes that stay unread turn a close into a reset."""
        while not self._gone:
            self._unread.clear()
            await self._read_more()

    async def wait_lost(self) -> None:
        """Wait until the transport has closed the socket."""
        await self._changed.wait_until(lambda: self._lost)

    # Methods that asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make each write leave at once, and wait until the kernel has taken it."""
        self.transport = cast("asyncio.Transport", transport)
        # Not every event loop turns Nagle's algorithm off, and a reset would lose a small write that it holds back.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport.set_write_buffer_limits(high=0)
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        """Keep bytes for the reader, and pause reading if there are too many."""
        self._unread += data
        if len(self._unread) > MAX_UNREAD:
            self.transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        """Count the peer as gone, but leave the transport open for a handler that is still writing."""
        self._peer_left()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Wake every task that waits for this connection."""
        self._lost = True
        self._changed.set()
        self._peer_left()

    def pause_writing(self) -> None:
        """Hold the writer back: the kernel's buffer is full."""
        self._writable = False

    def resume_writing(self) -> None:
        """Let the writer continue."""
        self._writable = True
        self._changed.set()

    def _peer_left(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self.request is not None and self.answering and not self._closed_by_us:
            self.request.closed_at = time.monotonic()
        self._changed.set()
        self._on_gone(self)
