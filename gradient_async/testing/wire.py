"""One connection as the server holds it: bytes in, socket writes out, and the peer's leaving seen at once."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import cast

from .request import Request

__all__ = ["Connection", "TooLargeError", "Wire"]

_MOST_UNREAD = 1024 * 1024
"""Bytes to hold unread before reading pauses; only a peer that talks while we answer gets there."""


class TooLargeError(Exception):
    """What the peer sends exceeds a limit of the server."""


class Wire(asyncio.Protocol):
    """The transport's side of a connection.

    A protocol rather than a pair of streams, because it is told at once that the peer has gone, also while
    somebody else is busy writing.

    Args:
        opened: Called with the wire when the connection is made.
        gone: Called once with the wire when the peer has closed, or the connection is lost or closed.
    """

    def __init__(self, opened: Callable[[Wire], None], gone: Callable[[Wire], None]) -> None:
        self._opened = opened
        self._gone = gone
        self._buffer = bytearray()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self._discarding = False
        self.finished = asyncio.Event()
        self.lost = asyncio.Event()
        self.closed_by_us = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; a write then waits until the kernel has taken every byte, and leaves at once."""
        self.transport = cast("asyncio.Transport", transport)
        # Not every loop does it, and held back, a small write would be lost by a reset.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport.set_write_buffer_limits(high=0)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Keep what came, within bounds."""
        if self._discarding:
            return
        self._buffer += data
        self._readable.set()
        if len(self._buffer) > _MOST_UNREAD and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Count the peer as gone, but leave the transport to whoever is writing to it."""
        self._finish()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # why does not matter
        """Wake everyone who waits."""
        self._finish()
        self.lost.set()

    def pause_writing(self) -> None:
        """Hold the writer back: the kernel's buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let the writer go on."""
        self._writable.set()

    def _finish(self) -> None:
        if not self.finished.is_set():
            self.finished.set()
            self._readable.set()
            self._writable.set()
            self._gone(self)

    async def read_until(self, separator: bytes, limit: int) -> bytes:
        """Read up to and including a separator.

        Args:
            separator: Where to end.
            limit: Most bytes to take, the separator included; a limit against exhausted memory.

        Raises:
            TooLargeError: If there is no separator within the limit.
            ConnectionResetError: If the peer closes before.
        """
        start = 0
        while (found := self._buffer.find(separator, start, limit)) < 0:
            if len(self._buffer) >= limit:
                raise TooLargeError
            start = max(0, len(self._buffer) - len(separator) + 1)
            await self._more()
        return self._take(found + len(separator))

    async def read_exactly(self, count: int) -> bytes:
        """Read that many bytes.

        Raises:
            ConnectionResetError: If the peer closes before.
        """
        while len(self._buffer) < count:
            await self._more()
        return self._take(count)

    async def _more(self) -> None:
        if self.finished.is_set():
            raise ConnectionResetError("the peer has closed the connection")
        self._readable.clear()
        self._resume_reading()
        await self._readable.wait()

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        # Paused, the transport would not tell that the peer has gone.
        if len(self._buffer) <= _MOST_UNREAD:
            self._resume_reading()
        return data

    def _resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def discard(self) -> None:
        """Throw away what the peer has sent and still sends, so that closing does not become a reset."""
        self._discarding = True
        self._buffer.clear()
        self._resume_reading()

    async def write(self, data: bytes) -> None:
        """Hand bytes to the kernel in one piece and wait until it has taken them.

        Raises:
            ConnectionResetError: If the peer has gone.
            RuntimeError: If this side has closed before: the script is in error.
        """
        if self.closed_by_us:
            raise RuntimeError("write after close: nothing can be written once CLOSE or RESET was played")
        if not self.finished.is_set():
            self.transport.write(data)
            # uvloop gathers all writes of one turn of the loop into one; a turn each keeps them apart.
            await asyncio.sleep(0)
            await self._writable.wait()
        if self.finished.is_set():
            raise ConnectionResetError("the peer has closed the connection")

    def close(self) -> None:
        """Send FIN after what was written."""
        self.closed_by_us = True
        self.transport.close()

    def half_close(self) -> None:
        """Send FIN, and go on reading."""
        self.closed_by_us = True
        self.transport.write_eof()

    def reset(self) -> None:
        """Send RST: the peer's next read fails, whatever was written is dropped if it is still here."""
        self.closed_by_us = True
        if not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


class Connection:
    """One accepted connection, in the hands of a handler.

    Attributes:
        number: Which connection of this server it is, counted from 1 in the order of accepting.
        request: The request that is being answered, or was last; None before the first.
        sent: Bytes written since that request was received.
    """

    def __init__(self, wire: Wire, number: int) -> None:
        self._wire = wire
        self.number = number
        self.request: Request | None = None
        self.sent = 0
        self._busy = False

    def __repr__(self) -> str:
        return f"<Connection {self.number}{', closed' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether either side has closed."""
        return self._wire.finished.is_set() or self._wire.closed_by_us

    @property
    def abandoned(self) -> bool:
        """Whether the peer has closed, or the connection was lost."""
        return self._wire.finished.is_set() and not self._wire.closed_by_us

    def begin(self, request: Request) -> None:
        """Take a request in hand; the server calls it."""
        self.request = request
        self.sent = 0
        self._busy = True

    def end(self) -> None:
        """Count the request as answered; the server calls it."""
        self._busy = False

    async def write(self, data: bytes) -> None:
        """Make one socket write and wait until the kernel has taken it.

        Nagle's algorithm is off, so the bytes leave at once; two writes may still reach the peer as one read
        if it is slow. Sleep between them where that matters.

        Args:
            data: Bytes as they stand; no framing is added.

        Raises:
            ConnectionResetError: If the peer has closed. A handler may let it pass: the server takes it as
                the end of the conversation.
            RuntimeError: If this side has closed before.
        """
        self.sent += len(data)
        await self._wire.write(data)

    async def sleep(self, seconds: float) -> None:
        """Wait, but not longer than the peer is there.

        Args:
            seconds: How long; 0 gives way to other tasks once.

        Raises:
            ConnectionResetError: As soon as the peer closes.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wire.finished.wait()
        except TimeoutError:
            return
        raise ConnectionResetError("the peer has closed the connection")

    async def wait_closed(self) -> None:
        """Keep silent until the peer closes."""
        await self._wire.finished.wait()

    def close(self) -> None:
        """Close: FIN after everything written so far."""
        self._wire.close()

    def half_close(self) -> None:
        """Close this direction only: FIN, while the peer may go on sending."""
        self._wire.half_close()

    def reset(self) -> None:
        """Break the connection: RST in place of FIN."""
        self._wire.reset()

    def mark_gone(self) -> None:
        """Note on the request in hand that the peer has left; the server calls it."""
        if self.request is not None and self._busy and not self._wire.closed_by_us:
            self.request.closed_at = time.monotonic()
