"""The body of a reply: one task at a time reads it, within time limits, and it can be closed at any moment."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import aiohttp

from ..errors import (
    APIError,
    ConfigurationError,
    RequestInfo,
    StreamError,
    StreamProtocolError,
    copy_of,
    escape,
)
from .aiohttp_internals import join_chunks, reader_of
from .connector import connection_of
from .deadlines import DeadlineTimer
from .exceptions import TRANSPORT_ERRORS, bare, interruption
from .inflate import Gunzip, content_coding
from .loops import call_in, runs_here

if TYPE_CHECKING:
    from ..config import Limits

# Seconds between two checks of the connection while a read waits. aiohttp's C parser leaves a reader waiting for ever
# after a malformed chunk; only these checks end such a wait.
_WATCH_INTERVAL = 1.0

# The exceptions of a failed read. aiohttp raises RuntimeError for a connection that this side has closed.
_FAILURES = (*TRANSPORT_ERRORS, RuntimeError)


class Expired(TimeoutError):  # noqa: N818  # never leaves the library
    """A time limit ran out while a read was waiting."""


class Body:
    """The body of one reply.

    Since `allow` was last called, all reads together wait at most `limit` seconds. The clock runs only while a read
    waits, so that a slow consumer is not taken for a stalled server.

    A read waits in one of two ways. In the library's own sessions, `start_read` returns a future that the `Connection`
    resolves whenever anything happens to it, and the caller awaits this future itself; aiohttp's `readany` takes two more
    coroutines for each token. In the caller's own session, `read` awaits `readany`. Everything after the wait is the same.

    Attributes:
        limit: Seconds that reads may wait for content; None is no limit.
        waited: Seconds that reads have waited since `allow` was called, or since the reader set this to 0.
        read_at: When the last read returned, on the loop's clock.
        expired: The limit that ran out: "response" (`limit`) or "total" (the deadline of the whole call), or None.
        cut: Whether the body ended in the middle of its compressed data.
        lost_by: Name of the class of the exception that broke the body off; "" if none did.
        keep_alive_ref: The pool of the connection. The reference keeps the pool alive, and so the connection open, if the
            client is dropped while its stream is still read.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_content",
        "_deadline",
        "_error",
        "_gone_at",
        "_loop",
        "_read_some",
        "_request",
        "_response",
        "_since",
        "_taken",
        "_timer",
        "cut",
        "expired",
        "keep_alive_ref",
        "limit",
        "lost_by",
        "read_at",
        "waited",
    )

    def __init__(
        self, response: aiohttp.ClientResponse, request: RequestInfo, *, deadline: float | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._content = response.content
        self._connection = connection_of(response)
        self._read_some = reader_of(self._content)
        self._request = request
        self._deadline = deadline
        self._error: APIError | None = None
        self._timer: DeadlineTimer | None = None  # the timer, while this body is registered with it
        self._since: float | None = None  # when the waiting read began; None while no read waits
        self._taken = 0  # how many of the bytes that arrived have been read
        self._gone_at = math.inf
        self.limit: float | None = None
        self.waited = 0.0
        self.read_at = 0.0
        self.expired: str | None = None
        self.cut = False
        self.lost_by = ""
        self.keep_alive_ref: object = None

    # Reading

    def start_read(self) -> asyncio.Future[None] | None:
        """Begin to wait for the next bytes.

        In another loop than the reply's, awaiting the future raises RuntimeError; `read` then explains why.

        Returns:
            A future. Await it and then call `finish_read`; if awaiting raises, call `cancel_read`. None means that the
            caller has to call `read`: bytes or the end have arrived, the connection has failed, or it is not a
            `Connection`.
        """
        connection, content, loop = self._connection, self._content, self._loop
        if (
            connection is None
            or connection.content is not content  # the whole body has arrived
            or connection.lost is not None
            or self.expired is not None
            or content.total_bytes != self._taken
            or self._since is not None
        ):
            return None
        self._since = loop.time()
        if self._timer is None:
            self._register()
        waiter = connection.waiter = asyncio.Future(loop=loop)
        return waiter

    def wait_since(self, since: float) -> None:
        """Count the time of a wait that `start_read` began and `cancel_read` took out of the count, from ``since`` on."""
        if self._since is None:
            self._since = since
            if self._timer is None:
                self._register()

    def finish_read(self) -> bytes:
        """Return the bytes that have arrived since `start_read`; b"" if `read` has to find out why there are none."""
        self.read_at = now = self._loop.time()
        if self._since is not None:
            self.waited += now - self._since
            self._since = None
        content = self._content
        try:
            data = self._read_some()
        except (IndexError, *_FAILURES) as error:
            # Nothing has arrived; or there is a failure, which aiohttp raises before it returns what has arrived.
            bare(error)  # aiohttp keeps the failure, and the traceback would keep this body
            return b""
        size = len(data)
        if self._taken + size != content.total_bytes and content.exception() is None:
            # The socket had several HTTP chunks, of which `_read_some` takes the first. To decode it alone, and then the rest,
            # would cost a short stream a tenth more.
            join_chunks(content)
            data += content.read_nowait()
            size = len(data)
        self._taken += size
        return data

    def cancel_read(self) -> None:
        """End the wait that `start_read` began; do nothing if it has ended."""
        self.read_at = now = self._loop.time()
        if self._since is not None:
            self.waited += now - self._since
            self._since = None

    def take_rest(self) -> bytes | None:
        """Return all that has not been read, if the end of the body has arrived; None if `read` has to be called."""
        content = self._content
        if self._error is not None or not content.is_eof() or content.exception() is not None:
            return None
        self.read_at = self._loop.time()
        join_chunks(content)
        return content.read_nowait()

    async def read(self) -> bytes:
        """Wait until bytes have arrived, and return them; b"" at the end of the body.

        Raises:
            StreamInterruptedError: If the connection was lost; everything before the loss has been returned.
            StreamProtocolError: If the body has a content encoding that was not asked for.
            Expired: If a time limit ran out.
            ConfigurationError: If another task is reading this body, or if the reply belongs to another event loop.
        """
        rest = Body.take_rest(self)
        if rest is not None:
            return rest
        if self._error is not None:
            raise copy_of(self._error)
        self._refuse_misuse()
        try:
            return await self._read()
        except _FAILURES as error:
            failure = bare(error)
        # The new error is raised outside of the `except` block: aiohttp's errors hold the request's headers, and must not
        # become the context of an error that a user logs.
        if self.expired is not None:
            raise Expired
        self.lost_by = type(failure).__name__
        data = self._salvage(failure)
        # If the connection was lost before the body was attached to it, aiohttp's exception does not have the error of the
        # connection.
        lost = None if self._connection is None else self._connection.lost
        self._error = interruption(failure, self._request, lost=lost)
        self.close()
        if data:
            return data
        raise copy_of(self._error)

    async def _read(self) -> bytes:
        content = self._content
        while True:
            there = self._something_there()
            waiter = None if there else self.start_read()
            try:
                if waiter is None:
                    self._since = self._loop.time()
                    if self._timer is None and not there:
                        self._register()
                    join_chunks(content)
                    data = await content.readany()
                    self._taken += len(data)
                else:
                    await waiter
                    data = self.finish_read()
            finally:
                self.cancel_read()
            if self.expired is not None:
                raise Expired
            failure = content.exception()
            if data or (failure is None and content.at_eof()):
                return data
            if failure is not None:
                raise failure

    def _something_there(self) -> bool:
        """Whether a read would return at once: unread bytes, the end or a failure have arrived."""
        content = self._content
        return content.total_bytes != self._taken or content.is_eof() or content.exception() is not None

    def _refuse_misuse(self) -> None:
        """Raise if the reply is read in another loop than its own, or by two tasks at once."""
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "this reply belongs to another event loop: read it in the loop that the request was made in"
            )
        if self._since is not None:
            raise ConfigurationError("this reply is being read by another task: let one task read it")

    def _salvage(self, failure: BaseException) -> bytes:
        """Take the bytes that arrived before the failure, which aiohttp would raise before it returns these bytes."""
        content: Any = self._content  # aiohttp's type for `set_exception` does not allow None
        content.set_exception(None)
        data: bytes = content.read_nowait()
        content.set_exception(failure)
        self._taken += len(data)
        return data

    async def drain(self, limits: Limits) -> None:
        """Read the rest of the body within short limits, so that the connection can be used again.

        Args:
            limits: Maximum number of seconds and bytes for this.
        """
        left = limits.drain_bytes
        self.allow(limits.drain_seconds)
        try:
            while left > 0 and (data := await Body.read(self)):
                left -= len(data)
        except (APIError, Expired):
            pass  # the stream is whole, so the loss of the connection is no error
        finally:
            self.close()

    # Time limits

    @property
    def overdue(self) -> bool:
        """Whether a limit has run out while no read was waiting; `expired` then names the limit."""
        if self.limit is not None and self.waited >= self.limit:
            self.expired = "response"
        elif self._deadline is not None and self._loop.time() >= self._deadline:
            self.expired = "total"
        return self.expired is not None

    def allow(self, limit: float | None) -> None:
        """Set how many seconds reads may wait for content from now on; None is no limit."""
        self.waited = 0.0
        if limit != self.limit:
            self.limit = limit
            if limit is not None and self._timer is not None:
                # The new limit may run out before the timer would fire.
                self._timer.join(self, self._loop.time() + limit)

    def _register(self) -> None:
        """Let the timer check this body when a limit may have run out, and at least once a second."""
        self._timer = DeadlineTimer.of(self._loop)
        self._timer.join(self, self._due(self._loop.time()))

    def _unregister(self) -> None:
        if self._timer is not None:
            self._timer.leave(self)
            self._timer = None

    def _due(self, now: float) -> float:
        at = now + _WATCH_INTERVAL
        if self.limit is not None:
            at = min(at, now + self.limit - self._waited_until(now))
        if self._deadline is not None:
            at = min(at, self._deadline)
        return at

    def _waited_until(self, now: float) -> float:
        return self.waited if self._since is None else self.waited + now - self._since

    def check(self, now: float) -> float | None:
        """End the waiting read if a limit has run out or the connection is gone.

        Args:
            now: The loop's clock.

        Returns:
            When to check again; None if no read waits.
        """
        connection = self._connection
        if self._since is not None:
            if connection is not None:
                connection.parse_on()
            # If something has arrived, the read does not wait any longer, although its task may not have run yet. The
            # loop may have been blocked; a limit must not expire because of that.
            if self._something_there():
                if connection is not None:
                    connection.notify()  # aiohttp may set an error without a call to the connection
            elif self.limit is not None and self._waited_until(now) >= self.limit:
                self._expire("response")
            elif self._deadline is not None and now >= self._deadline:
                self._expire("total")
            elif self._dead(now):
                self._wake(ConnectionResetError("the connection is gone"))
            else:
                return self._due(now)
        self._timer = None
        return None

    def _expire(self, what: str) -> None:
        self.expired = what
        self._wake(Expired())

    def _wake(self, failure: Exception) -> None:
        """End the waiting read with a failure."""
        self._content.set_exception(failure)
        if self._connection is not None:
            self._connection.notify()

    def _dead(self, now: float) -> bool:
        """Whether the connection has been gone for half a second, and aiohttp has not told the reader."""
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        if transport is not None and not transport.is_closing():
            return False
        self._gone_at = min(self._gone_at, now)
        # aiohttp may tell the reader a little later than the transport closes, and two checks may be close together.
        return now - self._gone_at >= _WATCH_INTERVAL / 2

    # Closing

    @property
    def closed(self) -> bool:
        """Whether the body was read to its end or closed."""
        return self._response.closed

    def refuse(self, error: APIError) -> None:
        """Let every read raise this error, and close the connection."""
        self._error = error
        self.discard()

    def close(self) -> None:
        """Return the connection to the pool if the body was read to its end; else close it at once."""
        self._unregister()
        if not (self._response.closed and self._content.at_eof()):  # otherwise there is nothing left to close
            self._response.close()
        self.keep_alive_ref = None

    def discard(self) -> None:
        """Close the connection even if the whole body has arrived: after garbage, it must not be used again."""
        self.close()
        if self._connection is not None:
            self._connection.discard()

    def abandon(self) -> None:
        """Close the body in its own loop. Any thread may call this method, and so may a finaliser."""
        if (self._timer is None and self._response.closed) or self._loop.is_closed():
            return
        if runs_here(self._loop):
            self.close()
        else:
            call_in(self._loop, self._response.close)

    def __del__(self) -> None:
        self.abandon()


class _GzipBody(Body):
    """The body of a reply that the server compressed although the request asked for no compression."""

    __slots__ = ("_gunzip",)

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: RequestInfo,
        *,
        deadline: float | None,
        limits: Limits,
    ) -> None:
        super().__init__(response, request, deadline=deadline)
        self._gunzip = Gunzip(limits)

    def start_read(self) -> None:
        """Return None, so that the caller calls `read`, which decompresses."""

    def take_rest(self) -> None:
        """Return None, so that the caller calls `read`, which decompresses."""

    async def read(self) -> bytes:
        """Return decompressed bytes, piece by piece; b"" at the end.

        Raises:
            StreamError: As `Body.read` does; also if the body is not gzip, or exceeds a limit.
        """
        gunzip = self._gunzip
        failure: StreamError
        time = self._loop.time
        asked = time()
        waited = self.waited
        while True:
            # Bytes that decompress to nothing may arrive so fast that no read waits, so their time is counted here.
            self.waited = max(self.waited, waited + time() - asked)
            if self.overdue:
                raise Expired
            if gunzip.pending:
                # One read may decompress to thousands of pieces. Other tasks run in between.
                await asyncio.sleep(0)
                try:
                    data = gunzip.read()
                except StreamError as error:
                    failure = error.with_traceback(None)
                    break
                if data:
                    self.read_at = self._loop.time()
                    return data
                continue
            data = await super().read()
            if not data:
                self.cut = not gunzip.whole
                return b""
            gunzip.push(data)
        self.refuse(failure)
        raise copy_of(failure)


def coding_of(response: aiohttp.ClientResponse) -> str | None:
    """Return the encoding of a body, as `content_coding` does."""
    codings = response.headers.getall("content-encoding", None)
    return None if codings is None else content_coding(",".join(codings))


def open_body(
    response: aiohttp.ClientResponse, request: RequestInfo, *, deadline: float | None, limits: Limits
) -> Body:
    """Make the body of a reply, which decompresses if the server compressed it.

    Args:
        response: aiohttp's response, whose headers have been read.
        request: The request, for errors.
        deadline: When the whole call has to be over, on the loop's clock; None is no deadline.
        limits: Limits on decompression.
    """
    coding = coding_of(response)
    if coding == "gzip":
        return _GzipBody(response, request, deadline=deadline, limits=limits)
    body = Body(response, request, deadline=deadline)
    if coding is not None:
        body.refuse(
            StreamProtocolError(
                f"Content-Encoding {escape(coding, 80)} was not asked for, and is not supported"
            )
        )
    return body
