"""Connections of the library's own sessions, made by public names of aiohttp and asyncio alone.

A `Connection` stands between a transport and aiohttp's protocol, where it sees each byte before aiohttp does. So it
knows what aiohttp does not tell: whether a reply has begun, how many interim responses came, whether bytes came between
replies, and whether a connection was reset or ended. And a read waits on one future of the connection, in place of two
coroutines of aiohttp.

```
IDLE ──a request──> HEAD ──the reply's head──> BODY ──the body's end──> IDLE
any byte in IDLE ──> closed      no HTTP in HEAD, or too many interim responses ──> refused, closed
```
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp import connector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from ..secrets import HiddenHeader
from .call import Call
from .deadlines import AttemptProgress
from .exceptions import TooManyInterimError, UnsentError
from .inflate import content_coding

_OK = 200
# After these, what the connection speaks, or how much of a request the server got, is unknown.
_LAST = frozenset({101, 408})

_END_OF_HEAD = b"\r\n\r\n"
_HTTP = b"HTTP/"
_CODE = slice(9, 12)  # of "HTTP/1.1 200 OK"
_INTERIM = re.compile(rb"1(?!01)..")  # codes; what follows a change of protocols is no HTTP
_SHOWN = 80  # bytes of what is no HTTP

# Turns of the loop in which the end of a new connection shows, if the end came along with the connection.
_TURNS_BEFORE_SENDING = 5
# When nothing is heard of a peer: the first probe after so many seconds, then one each, so many in all.
_PROBE_AFTER, _PROBE_EVERY, _PROBES = 60, 15, 4

current: ContextVar[AttemptProgress] = ContextVar("current")
"""The attempt that this task sends: aiohttp passes nothing of ours on to a connector."""


class Connection(asyncio.Protocol):
    """Passes on to aiohttp what a transport brings, after a look.

    Attributes:
        waiter: What a read awaits; resolved whenever anything happens to the connection.
        content: The body that is being received; None between replies.
        lost: How the connection was lost; None before.
    """

    def __init__(self, transport: asyncio.Transport, handler: ResponseHandler) -> None:
        self._transport = transport
        self._handler = handler
        # What is done with the bytes that come: the state of the connection.
        self._take: Callable[[bytes], None] = self._take_unasked
        self._head = b""  # the first bytes of the head that is being received
        self._tail = b""  # the last bytes of that head, which may be the beginning of its end
        self.content: aiohttp.StreamReader | None = None
        self.lost: BaseException | None = None
        self.waiter: asyncio.Future[None] | None = None

    def expect_reply(self, progress: AttemptProgress) -> None:
        """Prepare for the reply to a request that is about to be written."""
        self._take = functools.partial(self._take_head, progress)
        self._head = self._tail = b""
        self.waiter = None

    def notify(self) -> None:
        """Let the read that waits find out what happened."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take what the socket brought."""
        self._take(data)
        waiter = self.waiter
        if waiter is not None:  # `notify`, without the call
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _take_unasked(self, _data: bytes) -> None:
        """Close: what comes between replies would be taken for the next reply."""
        self._transport.close()

    def _take_head(self, progress: AttemptProgress, data: bytes) -> None:
        """Feed heads to aiohttp one by one, and apart from what follows.

        aiohttp's parsers lose a head, and the body so far, if what they are given at once ends in garbage.
        """
        handler = self._handler
        while data:
            if not self._head:
                data = data.lstrip(b"\r\n")  # empty lines may come before a head
                if not data:
                    return
            progress.begun = True
            end = (self._tail + data).find(_END_OF_HEAD)
            end = len(data) if end < 0 else end + len(_END_OF_HEAD) - len(self._tail)
            piece, data = data[:end], data[end:]
            self._tail = (self._tail + piece)[1 - len(_END_OF_HEAD) :]
            if len(self._head) < _SHOWN:
                head = self._head = (self._head + piece)[:_SHOWN]
                if not head.startswith(_HTTP[: len(head)]):
                    what = f"it begins with {head.decode('utf-8', 'replace')!r}"
                    self._refuse(HttpProcessingError(message=what))
                    return
            heads = len(handler)
            handler.data_received(piece)
            if len(handler) == heads:
                continue  # the head is not whole, or no HTTP, or came before aiohttp expects a reply
            if not _INTERIM.fullmatch(self._head[_CODE]):
                self._take = handler.data_received
                if data:
                    handler.data_received(data)
                return
            self._head = self._tail = b""
            progress.interim_left -= 1
            if progress.interim_left < 0:
                self._refuse(TooManyInterimError())
                return

    def _refuse(self, error: HttpProcessingError) -> None:
        """End the connection, and the request that waits for a head."""
        self._handler.set_exception(error)
        self._transport.close()

    def attach(self, response: aiohttp.ClientResponse) -> None:
        """Note the body that follows; it fails if the connection has been lost by now, in the middle of it."""
        self._take = self._handler.data_received
        content = self.content = response.content
        if self.lost is not None:
            headers = response.headers
            framed = "content-length" in headers or "transfer-encoding" in headers
            if not content.is_eof() or (isinstance(self.lost, OSError) and not framed):
                self._fail()
        content.on_eof(self._end_reply)

    def _end_reply(self) -> None:
        self._take = self._take_unasked
        self.content = None

    def discard(self) -> None:
        """Close the connection if it is between replies: another request may have it by now."""
        if self._take == self._take_unasked:
            self._transport.close()

    def parse_on(self) -> None:
        """Let aiohttp parse what it has held back.

        Its parser in Python remembers a pause that came when it had parsed all there was, and holds the next bytes back.
        """
        content = self.content
        if content is not None:
            before = content.total_bytes
            self._handler.data_received(b"")
            if content.total_bytes != before or content.is_eof():
                self.notify()

    def eof_received(self) -> None:
        """Take the end of what the peer sends."""
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for anything of the connection that the connection is gone."""
        self.lost = exc or EOFError()
        content = self.content
        if content is not None and not content.is_eof() and isinstance(exc, OSError):
            self._fail()  # before aiohttp, which would take a reset for the end of a body that has no length
        self._handler.connection_lost(exc)
        if content is not None and not content.is_eof():
            self._fail()  # aiohttp leaves the reader of a malformed body waiting
        self._take = self._handler.data_received  # a method of its own would keep this object alive
        self.notify()

    def _fail(self) -> None:
        """Let reads of the body fail, unless aiohttp has seen to that."""
        content, lost = self.content, self.lost
        if content is not None and content.exception() is None:
            if isinstance(lost, OSError):
                content.set_exception(aiohttp.ClientOSError(*lost.args))
            else:
                content.set_exception(aiohttp.ClientPayloadError(str(self._handler.exception() or "closed")))

    def pause_writing(self) -> None:
        """Write no more for now."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Write on."""
        self._handler.resume_writing()


class Connector(aiohttp.TCPConnector):
    """A pool of connections that tells each attempt how far it is.

    aiohttp's signals would tell the same for 16 µs a call: each is a coroutine, and most of them say nothing new.

    Args:
        max_connections: Connections in use at a time; more requests wait for one to be free.
        options: As aiohttp's own connector has them.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        # aiohttp's own limit says only by signals whether a request waits for its turn or for a connection.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # aiohttp's own types are partial
            limit=0, socket_factory=open_socket, **options
        )
        self._slots = asyncio.Semaphore(max_connections)
        self._clock = asyncio.get_running_loop().time

    async def connect(self, *arguments: Any, **options: Any) -> connector.Connection:
        """Return a connection for the attempt of this task, over which the request is about to be written.

        Raises:
            UnsentError: If the server closed the connection at once.
            HttpProcessingError: If the server sent something else than HTTP at once.
        """
        progress = current.get()
        queued_at = self._clock() if self._slots.locked() else None
        await self._slots.acquire()
        if queued_at is not None:
            progress.queued += self._clock() - queued_at
        connection: connector.Connection | None = None
        try:
            while True:
                progress.connecting()
                connection = await super().connect(*arguments, **options)
                used = _used_by(connection)
                if used is None or not progress.wants_new_connection:
                    break
                connection.close()
            if used is None:
                progress.connected()
                _begin_to_use(connection).expect_reply(progress)
                # Nothing has been written yet. A server that closes what it has just accepted is found out now.
                for _ in range(_TURNS_BEFORE_SENDING):
                    await asyncio.sleep(0)
            else:
                progress.reused = True
                used.expect_reply(progress)
            _refuse_closed(connection)
        except BaseException:
            if connection is not None:
                connection.close()
            self._slots.release()
            raise
        connection.add_callback(self._slots.release)
        progress.sending()
        return connection


def _used_by(connection: connector.Connection) -> Connection | None:
    """Return what stands between a transport and aiohttp; None for a new connection."""
    transport = connection.transport
    protocol = None if transport is None else transport.get_protocol()
    return protocol if isinstance(protocol, Connection) else None


def _begin_to_use(connection: connector.Connection) -> Connection:
    """Put a `Connection` between a new transport and aiohttp."""
    transport, handler = connection.transport, connection.protocol
    if transport is None or handler is None:
        raise UnsentError
    used = Connection(transport, handler)
    transport.set_protocol(used)
    return used


def _refuse_closed(connection: connector.Connection) -> None:
    """Raise what ended a connection before a request was written to it."""
    if connection.closed:
        handler = connection.protocol
        error = None if handler is None else handler.exception()
        raise error if isinstance(error, HttpProcessingError) else UnsentError


def open_socket(address: Any) -> socket.socket:
    """Make a socket that finds out when its peer has vanished without a word."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not every system lets these be set.
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER),
        ("TCP_KEEPINTVL", _PROBE_EVERY),
        ("TCP_KEEPCNT", _PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


class Response(aiohttp.ClientResponse):
    """aiohttp's response, which knows its connection even after the last byte of its body."""

    connection_used: Connection | None = None

    async def start(self, connection: connector.Connection) -> aiohttp.ClientResponse:
        """Read the head."""
        used = _used_by(connection)
        if used is None or connection.closed:
            raise UnsentError
        await super().start(connection)
        self.connection_used = used
        used.attach(self)
        headers = self.headers
        if len(set(headers.getall("content-length", ()))) > 1:  # aiohttp's parser in Python takes the first
            used.discard()
            raise HttpProcessingError(message="it has two different Content-Length headers")
        if self.status in _LAST or (self.status == _OK and _leads_elsewhere(headers)):
            self.content.on_eof(used.discard)
        return self


def _leads_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether the reply is hardly one of the server that was asked."""
    return (
        # A login page or a portal answers in the server's place.
        "html" in headers.get("content-type", "")
        # A server that uses a coding which nobody asked for has its own idea of HTTP.
        or (
            "content-encoding" in headers
            and content_coding(headers["content-encoding"]) not in {None, "gzip"}
        )
    )


def connection_of(response: aiohttp.ClientResponse) -> Connection | None:
    """Return the connection that a reply comes over; None in the caller's own session."""
    return response.connection_used if isinstance(response, Response) else None


# What both ways of sending have in common


def headers_of(call: Call) -> CIMultiDict[str]:
    """Return the headers of a call, its key among them; not to be changed."""
    headers: CIMultiDict[str] | None = call.prepared.get("headers")
    if headers is None:
        headers = CIMultiDict()
        if call.key is not None:
            headers["Authorization"] = HiddenHeader(f"Bearer {call.key.reveal()}")
        headers.update(call.headers)
        call.prepared["headers"] = headers
    return headers


def url_of(call: Call) -> URL:
    """Return where a call goes to."""
    url: URL | None = call.prepared.get("url")
    if url is None:
        url = call.prepared["url"] = URL(call.url).update_query(call.query)
    return url
