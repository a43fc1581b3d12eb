"""The body of a reply: read by one task at a time, limited in time, given up at any moment."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import aiohttp

from ..errors import APIError, ConfigurationError, RequestInfo, StreamError, StreamProtocolError, escape
from .aiohttp_internals import reader_of
from .connector import connection_of
from .deadlines import DeadlineTimer
from .exceptions import TRANSPORT_ERRORS, interruption
from .inflate import Gunzip, content_coding

if TYPE_CHECKING:
    from ..config import Limits

# While a read waits, the connection is looked at so often, in seconds: aiohttp's C parser leaves a reader waiting for
# ever after a malformed chunk, and nothing else would end that.
_WATCH_INTERVAL = 1.0

# What a read may fail with. RuntimeError is aiohttp's word for a connection that was closed by our side.
_FAILURES = (*TRANSPORT_ERRORS, RuntimeError)


class Expired(TimeoutError):  # noqa: N818  # never leaves the library
    """A limit ran out while a read was waiting."""


class Body:
    """One reply's body.

    Reads wait at most `limit` seconds in all since `allow` was last called. The clock runs only while a read waits,
    so that a slow consumer is not taken for a stalled server.

    A read waits in one of two ways. Where the connection is one of `aiohttp_internals`, `start_read` returns a future
    that the connection resolves whenever anything happens to it, and the caller awaits that future itself: aiohttp's
    own way takes two coroutines more for each token. Anywhere else (the caller's own session, a version of aiohttp
    that was not tested) `read` awaits aiohttp's public `readany`. Both ways share all that follows.

    Attributes:
        limit: Seconds that reads may wait for content; None is for ever.
        waited: Seconds that reads have waited since `allow` was called, or since somebody set it to 0.
        read_at: When the last read returned what had arrived, on the loop's clock.
        expired: What ran out: "response" (the limit) or "total" (the deadline of the whole call), or None.
        cut: Whether the body ended inside its compressed form.
        lost_by: The class of the exception that ended the body before its time; "" if none did.
        keep_alive_ref: What the connection belongs to, and must not be closed while this is read: a client may be
            dropped while a stream of it goes on.
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
        self._timer: DeadlineTimer | None = None  # where this is registered, while reads may wait
        self._since: float | None = None  # when the read that waits began; None while none does
        self._taken = 0  # bytes read of all that arrived
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
        """Begin to wait for what comes next.

        In another loop than the reply's, awaiting fails with RuntimeError; `read` tells why.

        Returns:
            What to await, and then to call `finish_read`, or `cancel_read` if awaiting failed; None if `read` is to be
            called: something is there already or wrong, or the connection is one of aiohttp's own.
        """
        connection, content, loop = self._connection, self._content, self._loop
        if (
            connection is None
            or connection.content is not content  # it has arrived to its end
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

    def finish_read(self) -> bytes:
        """Return what has arrived since `start_read`; b"" if `read` has to tell why nothing has."""
        self.read_at = now = self._loop.time()
        self.waited += now - (self._since or now)
        self._since = None
        try:
            data = self._read_some()
        except (IndexError, *_FAILURES):
            return b""  # nothing, or a failure that aiohttp raises before it hands out what has arrived
        self._taken += len(data)
        return data

    def cancel_read(self) -> None:
        """Wait no longer for what `start_read` was to bring."""
        self.read_at = now = self._loop.time()
        if self._since is not None:
            self.waited += now - self._since
            self._since = None

    async def read(self) -> bytes:
        """Return what has arrived, as soon as anything has; b"" at the end.

        Raises:
            StreamInterruptedError: If the connection was lost; what came before the loss has been returned.
            StreamProtocolError: If the body is coded in a way that was not asked for.
            Expired: If the limit ran out.
            ConfigurationError: If another task reads this, or another event loop runs than the reply's.
        """
        if self._error is not None:
            raise self._error
        content = self._content
        if content.is_eof() and content.exception() is None:
            self.read_at = self._loop.time()
            return content.read_nowait()  # all of the body has arrived: nothing to wait for
        self._refuse_misuse()
        try:
            return await self._read()
        except _FAILURES as error:
            failure = _bare(error)
        # Outside of the `except` block: aiohttp's errors hold the request's headers, and must not become the context
        # of what is raised here.
        if self.expired is not None:
            raise Expired
        self.lost_by = type(failure).__name__
        data = self._salvage(failure)
        self._error = interruption(failure, self._request)
        self.close()
        if data:
            return data
        raise self._error

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
        """Whether a read would not wait: bytes have arrived and were not taken, or the end or a failure is known."""
        content = self._content
        return content.total_bytes != self._taken or content.is_eof() or content.exception() is not None

    def _refuse_misuse(self) -> None:
        """Raise where a reply is read in another loop, or by two tasks at once."""
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "this reply belongs to another event loop: read it in the loop that the request was made in"
            )
        if self._since is not None:
            raise ConfigurationError("this reply is being read by another task: let one task read it")

    def _salvage(self, failure: BaseException) -> bytes:
        """Take what arrived before the failure: aiohttp raises the failure before it hands out what it holds."""
        content: Any = self._content  # whose types have no way to take an exception back
        content.set_exception(None)
        data: bytes = content.read_nowait()
        content.set_exception(failure)
        self._taken += len(data)
        return data

    async def drain(self, limits: Limits) -> None:
        """Read on to the end of the body, briefly, so that the connection can be used again.

        Args:
            limits: How many seconds and bytes that may take.
        """
        left = limits.drain_bytes
        self.allow(limits.drain_seconds)
        try:
            while left > 0 and (data := await Body.read(self)):
                left -= len(data)
        except (APIError, Expired):
            pass  # the stream is whole: a loss costs only the connection
        finally:
            self.close()

    # Time

    @property
    def overdue(self) -> bool:
        """Whether a limit has run out that no read was waiting for; notes which in `expired`."""
        if self.limit is not None and self.waited >= self.limit:
            self.expired = "response"
        elif self._deadline is not None and self._loop.time() >= self._deadline:
            self.expired = "total"
        return self.expired is not None

    def allow(self, limit: float | None) -> None:
        """Set how many seconds reads may wait for content from now on; None is for ever."""
        self.waited = 0.0
        if limit != self.limit:
            self.limit = limit
            if limit is not None and self._timer is not None:
                self._timer.join(self, self._loop.time() + limit)  # perhaps sooner than the timer would ring

    def _register(self) -> None:
        """Have this checked when the limit may be up, and once a second at least."""
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
        """End a read that waits if time is up or the connection is gone.

        Args:
            now: The loop's clock.

        Returns:
            When to check again; None if no read waits.
        """
        connection = self._connection
        if self._since is not None and connection is not None:
            connection.parse_on()
        # A read that something has come for waits no longer, though its task may have had no turn yet: where the loop
        # was held up, the server is not to blame.
        there = self._something_there()
        if there and connection is not None:
            connection.notify()
        elif self._since is not None and not there:
            if self.limit is not None and self._waited_until(now) >= self.limit:
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
        """End the read that waits with a failure."""
        self._content.set_exception(failure)
        if self._connection is not None:
            self._connection.notify()

    def _dead(self, now: float) -> bool:
        """Whether the connection has been gone for a while, and nobody told the reader."""
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        if transport is not None and not transport.is_closing():
            return False
        self._gone_at = min(self._gone_at, now)
        # Who would tell is told last, and two checks may be close together.
        return now - self._gone_at >= _WATCH_INTERVAL / 2

    # Leaving

    @property
    def closed(self) -> bool:
        """Whether the body has been read to its end, or given up."""
        return self._response.closed

    def refuse(self, error: APIError) -> None:
        """Let no read succeed, and give the connection up."""
        self._error = error
        self.discard()

    def close(self) -> None:
        """Give the connection up, at once; back to the pool if the body was read to its end."""
        self._unregister()
        if not (self._response.closed and self._content.at_eof()):  # otherwise nothing is left to give up
            self._response.close()
        self.keep_alive_ref = None

    def discard(self) -> None:
        """Give the connection up even if the body has arrived in full: who sends garbage is not asked again."""
        self.close()
        if self._connection is not None:
            self._connection.discard()

    def abandon(self) -> None:
        """Give the connection up from a finaliser, in whatever thread that runs."""
        if self._loop.is_closed() or (self._timer is None and self._response.closed):
            return
        if runs_here(self._loop):
            self.close()
        else:
            self._loop.call_soon_threadsafe(self._response.close)

    def __del__(self) -> None:
        self.abandon()


class _GzipBody(Body):
    """The body of a reply that is compressed though the request asked for no compression."""

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
        """Have `read` called, which unpacks: what arrives is not what is to be returned."""

    async def read(self) -> bytes:
        """Return what has arrived, unpacked and in pieces; b"" at the end.

        Raises:
            StreamError: As `Body.read`; and if the body is no gzip, or exceeds a limit.
        """
        gunzip = self._gunzip
        failure: StreamError
        time = self._loop.time
        asked = time()
        waited = self.waited
        while True:
            # What unpacks to nothing may come so fast that no read has to wait for it.
            self.waited = max(self.waited, waited + time() - asked)
            if self.overdue:
                raise Expired
            if gunzip.pending:
                await asyncio.sleep(0)  # what arrived may unpack to thousands of pieces
                try:
                    data = gunzip.pull()
                except StreamError as error:
                    failure = error
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
        raise failure


def open_body(
    response: aiohttp.ClientResponse, request: RequestInfo, *, deadline: float | None, limits: Limits
) -> Body:
    """Make the body of a reply, unpacking if need be.

    Args:
        response: aiohttp's response, its headers read.
        request: What it answers, for errors.
        deadline: When the whole call has to be over, on the loop's clock; None is never.
        limits: How much may come of a compressed body.
    """
    coding = response.headers.get("content-encoding")
    coding = None if coding is None else content_coding(coding)
    if coding == "gzip":
        return _GzipBody(response, request, deadline=deadline, limits=limits)
    body = Body(response, request, deadline=deadline)
    if coding is not None:
        body.refuse(
            StreamProtocolError(
                f"Content-Encoding {escape(coding, 80)} was not asked for, and is not understood"
            )
        )
    return body


def _bare(error: BaseException) -> BaseException:
    """Take from an exception what it holds of ours: aiohttp keeps some for a reply, and some for ever."""
    error.__context__ = None
    return error.with_traceback(None)


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this code is being run by this loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
