"""A session whose server is a list of reads: each arrives in a turn of the event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from gradient_async.session.aiohttp_internals import Connection, Connector, Response

__all__ = ["session_of"]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Transport(asyncio.Transport):
    """Answers what is written to it."""

    def __init__(self, protocol: asyncio.Protocol, reads: Sequence[bytes]) -> None:
        super().__init__({"peername": ("localhost", 80)})
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._pieces = iter([_HEAD, *(b"%x\r\n%s\r\n" % (len(data), data) for data in reads), b"0\r\n\r\n"])
        self._answering = False
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Begin to answer."""
        assert data
        if not self._answering:
            self._answering = True
            self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        # Who reads is woken in the next turn, and has read in the one after it.
        self._loop.call_soon(self._loop.call_soon, self._send)

    def _send(self) -> None:
        piece = next(self._pieces, None)
        if piece is None or self._closing:
            return
        self._protocol.data_received(piece)
        self._rest()

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def close(self) -> None:
        """Send no more."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """Send no more."""
        self.close()


class _Connector(Connector):
    """Connects to nothing."""

    def __init__(self, reads: Sequence[bytes]) -> None:
        super().__init__()
        self._reads = reads

    async def _create_connection(self, *_request: Any, **_more: Any) -> Connection:
        protocol = Connection(asyncio.get_running_loop())
        protocol.connection_made(_Transport(protocol, self._reads))
        return protocol


@asynccontextmanager
async def session_of(reads: Sequence[bytes]) -> AsyncGenerator[aiohttp.ClientSession]:
    """Make a session in which every request is answered by a stream.

    Args:
        reads: What comes, a piece a read.
    """
    async with aiohttp.ClientSession(connector=_Connector(reads), response_class=Response) as session:
        yield session
