"""Connections of the library's own sessions, made with public names of aiohttp and asyncio alone.

A `Connection` stands between a transport and aiohttp's protocol, and sees each byte before aiohttp does. Therefore it
knows facts that aiohttp does not report: whether a reply has begun, the number of interim responses, whether bytes arrived
between two replies, and whether the connection was reset or closed. In addition, a read awaits one future of the connection
in place of two coroutines of aiohttp.

All connections of an event loop receive into one buffer. For an `asyncio.Protocol`, the event loop would allocate 256 KiB for
each read, with and without TLS, and then shrink the allocation to the received bytes. In some processes the allocator of the
C library would ask the system for new pages at each read, and a token that arrives alone would take 1.5 times as long. The
bytes of the last read stay in the buffer until the next read.

```
IDLE ──a request──> HEAD ──the reply's head──> BODY ──the body's end──> IDLE
any byte in IDLE ──> closed      HEAD: bytes that are not HTTP, or too many interim responses ──> refused, closed
```
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp import connector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from ..errors import RequestInfo
from ..secrets import HiddenHeader, redacted_headers
from .call import Call
from .deadlines import AttemptProgress
from .exceptions import TooManyInterimError, UnsentError, bare
from .files import OpenFiles

_OK = 200
# Statuses after which a connection is not used again. After 101 the server speaks another protocol. After 408 the server may
# still be reading the request.
_LAST = frozenset({101, 408})

# Maximum bytes of one read. At the end of a TLS connection, asyncio fills the buffer once, and drops the bytes that do not
# fit: at most 256 KiB that are not yet decrypted, and a decrypted record of 16 KiB.
_BUFFER = 288 * 1024

_END_OF_HEAD = b"\r\n\r\n"
_HTTP = b"HTTP/"
_CODE = slice(9, 12)  # the status in "HTTP/1.1 200 OK"
# Statuses of interim responses; after 101 the connection does not speak HTTP.
_INTERIM = re.compile(rb"1(?!01)..")
_SHOWN = 80  # bytes of a reply that is not HTTP, to show in the error

# How many iterations of the event loop to wait before a request is sent over a new connection. If the server accepts the
# connection and closes it at once, the close is noticed during these iterations.
_TURNS_BEFORE_SENDING = 5
# TCP keep-alive, if the peer is silent: seconds to the first probe, seconds between probes, number of probes.
_PROBE_AFTER, _PROBE_EVERY, _PROBES = 60, 15, 4

current: ContextVar[AttemptProgress] = ContextVar("current")
"""The attempt that this task is sending. It is a context variable because aiohttp passes no arguments to the connector."""


class Connection(asyncio.BufferedProtocol):
    """Inspects the bytes that a transport receives, and passes them on to aiohttp.

    Args:
        transport: The transport.
        handler: aiohttp's protocol.
        buffer: The buffer for received bytes. All connections of a loop can share a buffer, because an event loop reads and
            calls `buffer_updated` in one step.

    Attributes:
        waiter: The future that a read awaits; resolved whenever anything happens to the connection.
        content: The body that is being received; None between replies.
        lost: The exception with which the connection was lost; None while the connection is open.
    """

    def __init__(self, transport: asyncio.Transport, handler: ResponseHandler, buffer: memoryview) -> None:
        self._transport: asyncio.Transport | None = transport  # None after the connection was closed or lost
        self._handler = handler
        self._buffer = buffer
        # The state of the connection: the method that handles received bytes in this state.
        self._take: Callable[[bytes], None] = self._take_unasked
        self._head = b""  # the first bytes of the head that is being received
        self._tail = b""  # the last bytes of that head, among which `_END_OF_HEAD` may begin
        self.content: aiohttp.StreamReader | None = None
        self.lost: BaseException | None = None
        self.waiter: asyncio.Future[None] | None = None

    def expect_reply(self, progress: AttemptProgress) -> None:
        """Prepare for the reply to the request that is written next."""
        self._take = functools.partial(self._take_head, progress)
        self._head = self._tail = b""
        self.waiter = None

    def notify(self) -> None:
        """Wake the read that waits for this connection."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        """Return the buffer for the next bytes from the socket."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle the bytes that are in the buffer."""
        self._take(self._buffer[:nbytes].tobytes())
        waiter = self.waiter
        if waiter is not None:  # does the same as `notify`, and saves the call
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _take_unasked(self, _data: bytes) -> None:
        """Close the connection, because aiohttp would take bytes between two replies for the next reply."""
        self._close()

    def _take_head(self, progress: AttemptProgress, data: bytes) -> None:
        """Feed heads to aiohttp one by one, and separately from the bytes after them.

        If aiohttp's parsers are fed a head and garbage in one call, they lose the head and the body so far.
        """
        handler = self._handler
        progress.begun = (
            True  # after one byte: a connection that the server closed while it was idle delivers no byte
        )
        while data:
            if not self._head:
                data = data.lstrip(b"\r\n")  # empty lines may come before a head
                if not data:
                    return
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
                continue  # the head is incomplete or not HTTP, or it arrived before aiohttp expects a reply
            code = self._head[_CODE]
            self._head = self._tail = b""
            if not _INTERIM.fullmatch(code):
                self._take = handler.data_received
                if data:
                    handler.data_received(data)
                return
            progress.interim_left -= 1
            if progress.interim_left < 0:
                self._refuse(TooManyInterimError())
                return

    def _refuse(self, error: HttpProcessingError) -> None:
        """Close the connection, and fail the request that waits for a head."""
        self._handler.set_exception(error)
        self._close()

    def attach(self, response: aiohttp.ClientResponse) -> None:
        """Note the body of a reply. If the connection has been lost in the middle of the body, let reads fail."""
        self._take = self._handler.data_received
        content = self.content = response.content
        if self.lost is not None:
            headers = response.headers
            framed = "content-length" in headers or "transfer-encoding" in headers
            if not content.is_eof() or (isinstance(self.lost, OSError) and not framed):
                self._fail()
        content.on_eof(self._end_reply)

    def _end_reply(self) -> None:
        if self.lost is None:
            self._take = self._take_unasked
        self.content = None

    def _close(self) -> None:
        """Close the transport, once: TLS hands over what it still has, perhaps to a method that closes as well."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def discard(self) -> None:
        """Close the connection if it is between replies; otherwise another request may be using it."""
        if self._take == self._take_unasked:
            self._close()

    def drop_reply(self) -> None:
        """Drop a reply whose request was cancelled after the head had arrived, and before the task could run.

        aiohttp's protocol and the reply refer to each other, so they would stay in memory.
        """
        while len(self._handler):
            with contextlib.suppress(StopIteration):  # a coroutine that does not wait ends with StopIteration
                self._handler.read().send(None)

    def parse_on(self) -> None:
        """Let aiohttp parse bytes that its parser has held back.

        aiohttp's parser in Python holds back the next bytes if reading was paused after it had parsed all bytes before.
        """
        content = self.content
        if content is not None:
            before = content.total_bytes
            self._handler.data_received(b"")
            if content.total_bytes != before or content.is_eof():
                self.notify()

    def eof_received(self) -> None:
        """Pass on that the peer will send nothing more."""
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell aiohttp and a waiting read that the connection is lost."""
        self.lost = exc or EOFError()
        content = self.content
        if content is not None and not content.is_eof() and isinstance(exc, OSError):
            self._fail()  # called first, because aiohttp would take a reset for the end of a body without a length
        self._handler.connection_lost(exc)
        if content is not None and not content.is_eof():
            self._fail()  # aiohttp would leave the reader of a malformed body waiting
        failure = None if content is None else content.exception()
        if failure is not None:
            # Removes the traceback, which is part of a cycle: traceback, aiohttp's protocol, body, failure.
            bare(failure)
        # Reference cycles would keep the connection alive: a method of this object in `_take` would form one, and so would
        # the transport of a TLS connection, which keeps the methods `get_buffer` and `buffer_updated`.
        self._take = self._handler.data_received
        self._transport = None
        self.notify()

    def _fail(self) -> None:
        """Let reads of the body fail, unless aiohttp has set an exception already."""
        content, lost = self.content, self.lost
        if content is not None and content.exception() is None:
            if isinstance(lost, OSError):
                content.set_exception(aiohttp.ClientOSError(*lost.args))
            else:
                content.set_exception(aiohttp.ClientPayloadError(str(self._handler.exception() or "closed")))

    def pause_writing(self) -> None:
        """Pass on that the transport's buffer is full."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the transport's buffer has room."""
        self._handler.resume_writing()


class Connector(aiohttp.TCPConnector):
    """A pool of connections that reports the progress of each attempt to its `AttemptProgress`.

    aiohttp's trace signals would report the same, but take 16 µs a call, because each of them is a coroutine.

    Args:
        owner: The object without which nobody can use the connector any more. Its finalizer closes the connector.
        max_connections: Maximum number of connections in use; further requests wait for a free connection.
        options: Options of aiohttp's own connector.

    Attributes:
        files: The line of calls that wait because of too many open files; all connectors of a loop share the line.
    """

    def __init__(self, *, owner: object, max_connections: int, **options: Any) -> None:
        # With aiohttp's own limit, only trace signals show whether a request waits for its turn or for a new connection. So
        # aiohttp's limit is off, and `_places` limits the connections. A semaphore of asyncio would do more work for each
        # request, even while no request waits.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # aiohttp's own types are partial
            limit=0, socket_factory=open_socket, **options
        )
        # Python 3.15 clears weak references before it runs finalizers only if they have a callback.
        self._owner = weakref.ref(owner, _do_nothing)
        self._places = max_connections  # free places; 0 while any request waits
        self._in_line: deque[asyncio.Future[None]] = deque()
        self._incoming = buffer_of(asyncio.get_running_loop())
        self.files = OpenFiles.of(asyncio.get_running_loop())

    # The garbage collector finalizes the objects of a reference cycle in any order. If it begins with aiohttp's, they would
    # report that they are open, which is no fault of the caller, and close connections in the wrong thread. The session of
    # aiohttp asks its connector whether it is open.

    @property
    def closed(self) -> bool:
        """Whether the connector is closed, or about to be closed because its owner is gone."""
        return self._owner() is None or super().closed

    def __del__(self, *_: Any) -> None:
        """Leave the connector to the finalizer of its owner."""

    async def connect(self, *arguments: Any, **options: Any) -> connector.Connection:
        """Return a connection for the attempt of this task. aiohttp then writes the request to the connection.

        Raises:
            UnsentError: If the server closed the connection at once.
            HttpProcessingError: If the server at once sent something other than HTTP.
        """
        progress = current.get()
        if self._places:
            self._places -= 1
        else:
            await self._wait_for_place(progress)
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
                used = self._begin_to_use(connection)
                used.expect_reply(progress)
                # If the server closes the connection at once, the close is noticed before the request is written.
                for _ in range(_TURNS_BEFORE_SENDING):
                    await asyncio.sleep(0)
            else:
                progress.reused = True
                used.expect_reply(progress)
            if connection.closed:
                await _refuse_closed(connection, used)
        except BaseException:
            if connection is not None:
                connection.close()
            self._free_place()
            raise
        self.files.in_use += 1
        connection.add_callback(self._give_back)
        if self.files.line:
            self.files.wake()  # another call may connect now as well
        progress.sending()
        return connection

    def _begin_to_use(self, connection: connector.Connection) -> Connection:
        """Put a `Connection` between a new transport and aiohttp."""
        transport, handler = connection.transport, connection.protocol
        if transport is None or handler is None:
            raise UnsentError
        used = Connection(transport, handler, self._incoming)
        transport.set_protocol(used)
        return used

    def _give_back(self) -> None:
        """Give the place of a connection that is no longer in use to another request."""
        self.files.in_use -= 1
        self._free_place()
        if self.files.line:
            self.files.wake()

    async def _wait_for_place(self, progress: AttemptProgress) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        future = loop.create_future()
        self._in_line.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                with contextlib.suppress(ValueError):  # `_free_place` may have removed the future already
                    self._in_line.remove(future)
            else:
                self._free_place()  # this request got a place and was cancelled, so another request gets the place
            raise
        progress.queued += loop.time() - began

    def _free_place(self) -> None:
        """Give a place to the request that has waited longest, or keep it free."""
        while self._in_line:
            future = self._in_line.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._places += 1


def _do_nothing(_: object) -> None:
    pass


def buffer_of(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the buffer into which the connections of a loop receive. The buffer exists while a connector refers to it."""
    buffer = _buffers.get(id(loop))
    if buffer is None:
        buffer = _buffers[id(loop)] = memoryview(bytearray(_BUFFER))
    return buffer


# The buffers, by `id` of their loops. What refers to a buffer refers to its loop too, so the `id` is not reused meanwhile.
_buffers: weakref.WeakValueDictionary[int, memoryview] = weakref.WeakValueDictionary()


def _used_by(connection: connector.Connection) -> Connection | None:
    """Return the `Connection` that stands between a transport and aiohttp; None for a new connection."""
    transport = connection.transport
    protocol = None if transport is None else transport.get_protocol()
    return protocol if isinstance(protocol, Connection) else None


async def _refuse_closed(connection: connector.Connection, used: Connection) -> None:
    """Raise the error of a connection that ended before a request was written to it."""
    handler = connection.protocol
    # A closing transport reports the reason, such as a failure of TLS, a few iterations of the event loop later.
    for _ in range(_TURNS_BEFORE_SENDING):
        if used.lost is None:
            await asyncio.sleep(0)
    error = None if handler is None else handler.exception()
    raise error if isinstance(error, HttpProcessingError) else UnsentError from used.lost


def open_socket(address: Any) -> socket.socket:
    """Make a socket with TCP keep-alive, which detects that a peer has vanished without closing the connection."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    progress = current.get(None)
    if progress is not None:
        progress.lacks_files = False
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Some systems do not have these options.
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
    """aiohttp's response, which keeps a reference to its `Connection` even after the last byte of its body."""

    connection_used: Connection | None = None

    async def start(self, connection: connector.Connection) -> aiohttp.ClientResponse:
        """Read the head of the reply."""
        used = _used_by(connection)
        if used is None or connection.closed:
            raise UnsentError
        try:
            await super().start(connection)
        except BaseException:
            used.drop_reply()
            raise
        self.connection_used = used
        used.attach(self)
        headers = self.headers
        # The parser of aiohttp that is written in Python does not refuse several lengths.
        if len(set(headers.getall("content-length", ()))) > 1:
            used.discard()
            raise HttpProcessingError(message="it has two different Content-Length headers")
        # HTML with status 200 is a login page or a captive portal that answers in place of the server, so the connection is not
        # used again. A content encoding that was not asked for needs no check here: the body refuses it, and closes the
        # connection.
        portal = self.status == _OK and "html" in headers.get("content-type", "")
        if self.status in _LAST or portal:
            self.content.on_eof(used.discard)
        return self


def connection_of(response: aiohttp.ClientResponse) -> Connection | None:
    """Return the `Connection` of a reply; None if the caller's own session made the request."""
    return response.connection_used if isinstance(response, Response) else None


# Shared by both ways of sending: `aiohttp_internals`, and aiohttp's own `request`


def headers_of(call: Call) -> CIMultiDict[str]:
    """Return the headers of a call, including its key; the caller must not change them."""
    headers: CIMultiDict[str] | None = call.prepared.get("headers")
    if headers is None:
        headers = CIMultiDict()
        if call.key is not None:
            headers["Authorization"] = HiddenHeader(f"Bearer {call.key.reveal()}")
        headers.update(call.headers)
        call.prepared["headers"] = headers
    return headers


def url_of(call: Call) -> URL:
    """Return the URL of a call, with its query."""
    url: URL | None = call.prepared.get("url")
    if url is None:
        url = call.prepared["url"] = URL(call.url).update_query(call.query)
    return url


def request_of(call: Call) -> RequestInfo:
    """Return the description of a call's request, for errors and replies."""
    request: RequestInfo | None = call.prepared.get("request")
    if request is None:
        headers = redacted_headers(call.headers, call.key, call.redactor)
        request = RequestInfo(method=call.method, url=call.url, headers=headers)
        call.prepared["request"] = request
    return request
