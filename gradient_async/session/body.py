"""The body of a reply, read with limits on time, and given up at any moment."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import aiohttp

from ..errors import APIError, ConfigurationError, RequestInfo
from .deadlines import Rounds
from .exceptions import TRANSPORT_ERRORS, interruption
from .protocol import discard, known

if TYPE_CHECKING:
    from ..config import Limits

__all__ = ["Body", "Expired", "runs_here"]

# How often a waiting read looks whether its connection is still there: aiohttp's C parser leaves the
# reader waiting for ever after a malformed chunk.
_WATCH_INTERVAL = 1.0

# What a read may fail with: RuntimeError comes of a connection that was closed, and of a second reader.
_FAILURES = (*TRANSPORT_ERRORS, RuntimeError)


class Expired(TimeoutError):  # noqa: N818  # never leaves the library
    """A limit ran out while a read was waiting."""


class Body:
    """One reply's body.

    Reads wait at most `limit` seconds in all since `allow` was last called: the clock runs only while a
    read waits, so that a slow consumer is not taken for a stalled server.

    Args:
        response: aiohttp's response, its headers read.
        request: What it answers, for errors.
        deadline: When the whole call has to be over, on the loop's clock; None is never.

    Attributes:
        limit: Seconds that reads may wait for content; None is for ever.
        waited: Seconds that reads have waited since `allow` was called, or whoever set it to 0.
        read_at: When the last read returned what had arrived, on the loop's clock.
        expired: What ran out: "response" (the limit) or "total" (the deadline), or None.
        cut: Whether the body ended inside what it was compressed into.
        lost_by: The class of what ended it before its time; "" if nothing did.
        keeps: What the connection belongs to, and is not to be closed while this is read: a client may be dropped
            while a stream of it goes on.
    """

    __slots__ = (
        "__weakref__",
        "_content",
        "_deadline",
        "_error",
        "_gone_at",
        "_known",
        "_loop",
        "_request",
        "_response",
        "_rounds",
        "_since",
        "_waiting",
        "cut",
        "expired",
        "keeps",
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
        self._request = request
        self._deadline = deadline
        self._error: APIError | None = None
        self._rounds: Rounds | None = None  # who is to come by and look at it
        self._waiting = False  # for aiohttp's own `readany`
        self._since = 0.0
        self._gone_at = math.inf
        self._known = known() and type(self._content) is aiohttp.StreamReader
        self.limit: float | None = None
        self.waited = 0.0
        self.read_at = 0.0
        self.expired: str | None = None
        self.cut = False
        self.lost_by = ""
        self.keeps: object = None

    def begin(self) -> asyncio.Future[None] | None:
        """Begin to wait for what comes next: aiohttp's own way to do so is two coroutines more.

        Returns:
            What to await, and then to call `take`, or `stop` if that failed; None if `read` is to be called: something
            is there already, or wrong, or aiohttp is not known well enough.
        """
        content: Any = self._content
        # Its own coroutines look at the same, and no more.
        if not self._known or content._buffer or content._eof or content._waiter is not None:  # noqa: SLF001  # known
            return None
        if content._exception is not None or content._protocol.transport is None:  # noqa: SLF001  # likewise
            return None
        loop = self._loop
        self._since = loop.time()
        if self._rounds is None:
            self._watch()
        waiter: asyncio.Future[None] = asyncio.Future(loop=loop)
        content._waiter = waiter  # noqa: SLF001  # likewise
        return waiter

    def take(self) -> bytes:
        """Return what has come since `begin`; b"" if `read` has to tell."""
        self.read_at = now = self._loop.time()
        self.waited += now - self._since
        content: Any = self._content
        # What came is returned even if something is wrong by now, which the next read tells.
        one = len(content._buffer) == 1  # noqa: SLF001  # as in `begin`
        data: bytes = content._read_nowait_chunk(-1) if one else content._read_nowait(-1)  # noqa: SLF001  # likewise
        return data

    def stop(self, failure: Exception | None = None) -> None:
        """Wait no longer for what `begin` was to bring.

        Args:
            failure: What waiting ended with, for `read` to tell; None if it was given up.

        Raises:
            Exception: The failure, if it is none of the connection's: somebody has thrown it at who waits.
        """
        self.waited += self._loop.time() - self._since
        content: Any = self._content
        content._waiter = None  # noqa: SLF001  # of a version that is known, or nothing began
        if failure is not None:
            if not isinstance(failure, _FAILURES):
                raise failure
            _bare(failure)

    async def read(self) -> bytes:
        """Return what has arrived, as soon as anything has; b"" at the end.

        Raises:
            StreamInterruptedError: If the connection was lost; what came before it has been returned.
            StreamProtocolError: If the body is coded in a way that was not asked for.
            Expired: If the limit ran out.
            ConfigurationError: If another event loop is running than the one that the reply came in.
        """
        if self._error is not None:
            raise self._error
        content = self._content
        if content.is_eof() and content.exception() is None:
            self.read_at = self._loop.time()
            return content.read_nowait()  # all of it has arrived: nothing to wait for, nothing to watch
        waiter = self.begin()
        if waiter is not None:
            try:
                await waiter
            except Exception as error:  # noqa: BLE001  # `readany` raises it
                self.stop(error)
            except BaseException:
                self.stop()
                raise
            else:
                data = self.take()
                if data:
                    return data
        failure: BaseException
        self._since = self._loop.time()
        self._waiting = True
        if self._rounds is None:
            self._watch()
        try:
            data = await content.readany()
        except Expired as error:
            failure = _bare(error)
        except _FAILURES as error:
            failure = _bare(error)
        else:
            return data
        finally:
            self._waiting = False
            self.read_at = now = self._loop.time()
            self.waited += now - self._since
        if isinstance(failure, Expired):
            raise Expired
        if isinstance(failure, RuntimeError) and (problem := _misuse(self._loop, failure)) is not None:
            raise problem
        self.lost_by = type(failure).__name__
        data = self._salvage(failure)
        self._error = interruption(failure, self._request)
        self.close()
        if data:
            return data
        raise self._error

    @property
    def overdue(self) -> bool:
        """Whether a limit has run out that no read was waiting for; notes which in `expired`."""
        if self.limit is not None and self.waited >= self.limit:
            self.expired = "response"
        elif self._deadline is not None and self._loop.time() >= self._deadline:
            self.expired = "total"
        return self.expired is not None

    def refuse(self, error: APIError) -> None:
        """Let no read succeed; the connection is given up."""
        self._error = error
        self.discard()

    @property
    def closed(self) -> bool:
        """Whether it has been read to its end, or given up."""
        return self._response.closed

    def allow(self, limit: float | None) -> None:
        """Set how many seconds reads may wait for content from now on; None is for ever."""
        self.waited = 0.0
        if limit != self.limit:
            self.limit = limit
            if limit is not None and self._rounds is not None:
                self._rounds.join(self, self._loop.time() + limit)  # perhaps sooner than they were to come by

    def _salvage(self, failure: BaseException) -> bytes:
        """Take what arrived before the failure: aiohttp raises it before it hands out what it holds."""
        content: Any = self._content  # whose types have no way to take an exception back
        content.set_exception(None)
        data: bytes = content.read_nowait()
        content.set_exception(failure)
        return data

    async def drain(self, limits: Limits) -> None:
        """Read on to the end of the body, briefly, so that the connection can be used again.

        Args:
            limits: How many seconds and bytes that may take.
        """
        left = limits.drain_bytes
        self._unwatch()  # this has a limit of its own
        try:
            async with asyncio.timeout(limits.drain_seconds):
                while left > 0 and not self._content.at_eof():
                    left -= len(await self._content.readany())
        except TRANSPORT_ERRORS as error:
            _bare(error)
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection up, at once; back to the pool if the body was read to its end."""
        self._unwatch()
        if not (self._response.closed and self._content.at_eof()):  # nothing is left to give up
            self._response.close()
        self.keeps = None

    def discard(self) -> None:
        """Give the connection up even if the body has arrived in full: who sends garbage is not asked again."""
        self.close()
        discard(self._response)

    def abandon(self) -> None:
        """Give the connection up from a finaliser, in whatever thread that runs."""
        if self._loop.is_closed() or (self._rounds is None and self._response.closed):
            return
        if runs_here(self._loop):
            self.close()
        elif not self._response.closed:
            self._loop.call_soon_threadsafe(self._response.close)

    def __del__(self) -> None:
        self.abandon()

    def _watch(self) -> None:
        """Have it looked at when the limit may be up, and once a second at least."""
        self._rounds = Rounds.of(self._loop)
        self._rounds.join(self, self._due(self._since))

    def _unwatch(self) -> None:
        if self._rounds is not None:
            self._rounds.leave(self)
            self._rounds = None

    def _due(self, now: float) -> float:
        at = now + _WATCH_INTERVAL
        if self.limit is not None:
            at = min(at, self._since + self.limit - self.waited)
        if self._deadline is not None:
            at = min(at, self._deadline)
        return at

    def look(self, now: float) -> float | None:
        """Look whether time is up, or the connection gone, while a read waits.

        Args:
            now: The loop's clock.

        Returns:
            When to look again; None if a read that waits will say so.
        """
        content: Any = self._content
        # A read that something has come for waits no longer, though it may have had no turn yet: where the loop was held
        # up, that is for no fault of the server's.
        waits = content._waiter is not None if self._known else self._waiting  # noqa: SLF001  # as in `begin`
        if waits:
            if self.limit is not None and self.waited + now - self._since >= self.limit:
                self._expire("response")
            elif self._deadline is not None and now >= self._deadline:
                self._expire("total")
            elif self._dead(now):
                self._content.set_exception(ConnectionResetError("the connection is gone"))
            else:
                return self._due(now)
        self._rounds = None
        return None

    def _expire(self, what: str) -> None:
        self.expired = what
        self._content.set_exception(Expired())

    def _dead(self, now: float) -> bool:
        """Whether the connection has been gone for a while, and nobody told the reader."""
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        if transport is not None and not transport.is_closing():
            return False
        self._gone_at = min(self._gone_at, now)
        # Who would tell is told last; and the looks at others, which are looks at this one, may be close together.
        return now - self._gone_at >= _WATCH_INTERVAL / 2


def _bare(error: BaseException) -> BaseException:
    """Take from an exception what it holds of ours: aiohttp keeps some for a reply, and some for ever."""
    error.__context__ = None
    return error.with_traceback(None)


def _misuse(loop: asyncio.AbstractEventLoop, failure: RuntimeError) -> ConfigurationError | None:
    """Say what is wrong where a reply is read in another loop, or by two tasks at once; None if neither is."""
    if runs_here(loop):
        if "another coroutine" not in str(failure):
            return None  # its session was closed, by whoever it belongs to
        return ConfigurationError("this reply is being read by another task: let one task read it")
    return ConfigurationError(
        "this reply belongs to another event loop: read it in the loop that the request was made in"
    )


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this code is being run by this loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
