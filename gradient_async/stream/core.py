"""The stream of one reply."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..assembly import CompletionAssembler
from ..config import Limits, Timeout
from ..errors import ResponseInfo, StreamLimitError
from ..types import ChatCompletionChunk, Headers, RateLimits
from .base import ChunkStream
from .source import Source
from .timing import Timing
from .views import RawStream

if TYPE_CHECKING:
    from ..session.reply import Reply

__all__ = ["ChatCompletionStream"]


class ChatCompletionStream(ChunkStream):
    """A completion as it is generated: an async iterator of chunks.

    Once read to its end its connection is reused. Leaving it earlier gives the connection up: use
    ``async with``, or call `aclose`.

    Args:
        reply: What the session returned.
        n: How many choices were asked for.
        timeout: Time limits.
        limits: Sizes a server may send.
        strict: Whether to insist on finish reasons and on UTF-8.
        on_bad_event: What to do with events that are no chunks.

    Raises:
        StreamTruncatedError: From iterating: the stream ended cleanly, but short.
        StreamInterruptedError: From iterating: the connection was lost.
        StreamTimeoutError: From iterating: no content came within the limit.
        StreamServerError: From iterating: the server sent an error inside the stream.
        StreamProtocolError: From iterating: what came is no stream of chunks.
        StreamLimitError: From iterating: a limit was exceeded.
    """

    def __init__(
        self,
        reply: Reply,
        *,
        n: int = 1,
        timeout: Timeout,
        limits: Limits,
        strict: bool = False,
        on_bad_event: Literal["raise", "skip"] = "raise",
    ) -> None:
        assembler = CompletionAssembler(n=n, limits=limits, strict=strict)
        source = Source(
            reply, assembler, n=n, timeout=timeout, limits=limits, strict=strict, on_bad_event=on_bad_event
        )
        super().__init__(source, assembler, buffered=limits.buffered_bytes)
        self._reply = reply
        self._source = source

    def overflow(self, who: str) -> StreamLimitError:
        """Make the error of a reader that fell too far behind."""
        error = super().overflow(who)
        error.attempts = self.attempts
        error.request_id = self.request_id
        return error

    async def __anext__(self) -> ChatCompletionChunk:
        for chunk in self._ready:
            return chunk
        if not self._reading and self._choices is None and self._cursor is self._ready:
            # The usual reader waits here for the next bytes, without a coroutine between.
            self.settle()
            source = self._source
            waiter = source.begin()
            if waiter is not None:
                self._reading = self._main_used = True
                self._relayed = False
                batch: Sequence[ChatCompletionChunk] = ()
                try:
                    await waiter
                except Exception as error:  # noqa: BLE001  # whoever reads next is told what it was
                    source.stop(error)
                except BaseException:
                    source.stop()
                    raise
                else:
                    batch = source.take()
                finally:
                    # It holds what waiting ended with; a traceback may show locals, and servers echo keys.
                    del waiter
                    self._reading = False
                    if self._waiters.all:
                        self._waiters.wake_all()
                if len(batch) == 1 and self._choices is None:
                    # What comes alone is read at once: the cursor, which is behind all there was, is behind it, too.
                    self._batch = batch
                    self._assembled = 0
                    return batch[0]
                if batch:
                    self._receive(batch)
        return await self.next_chunk()

    async def take(self) -> list[ChatCompletionChunk]:
        """Read on; return every chunk that this brought, assembled, and none at the end.

        Raises:
            APIError: How the stream ended, if badly.
        """
        return self._take_rest() if await self.pump() else []

    @property
    def raw(self) -> RawStream:
        """The bytes as received, ``[DONE]`` included, to relay them; everything is assembled nevertheless.

        Choose it before anything else is read.
        """
        return RawStream(self)

    async def next_raw(self) -> bytes:
        """Return the next bytes.

        Raises:
            TypeError: If chunks, text or events were read before.
            APIError: How the stream ended, if badly; after the bytes that tell it.
            StopAsyncIteration: At the end.
        """
        source = self._source
        while self._reading:
            await self.pump()
        if not self._relayed:
            raise TypeError("stream.raw has to be chosen before anything else is read from the stream")
        source.received = b""
        self._reading = True
        try:
            while not source.received:
                chunks = await source.advance(one_read=True)
                self._receive(chunks)
                self._pass_all()
                if source.ended:
                    raise StopAsyncIteration
        finally:
            self._reading = False
            if self._waiters.all:
                self._waiters.wake_all()
        self._pass_pending()
        return source.received

    def _pass_pending(self) -> None:
        """Move the cursor past what was read and not decoded yet; an error waits for the next read."""
        while self._source.decoder.pending and self._source.error is None:
            self._receive(self._source.pull())
            self._pass_all()

    # What is known of it

    @property
    def status_code(self) -> int:
        """HTTP status."""
        return self._reply.status

    @property
    def headers(self) -> Headers:
        """The reply's headers."""
        return self._reply.headers

    @property
    def response(self) -> ResponseInfo:
        """Status and headers."""
        return self._reply.info()

    @property
    def request_id(self) -> str | None:
        """The server's name for the request."""
        return self._reply.request_id

    @property
    def rate_limits(self) -> RateLimits | None:
        """What the headers said of limits."""
        return self._reply.rate_limits

    @property
    def attempts(self) -> int:
        """How many requests it took."""
        return self._reply.attempts

    @property
    def timing(self) -> Timing:
        """How long things took, in seconds."""
        return self._source.timing

    @property
    def saw_done(self) -> bool:
        """Whether ``[DONE]`` came."""
        return self._source.decoder.done

    @property
    def was_buffered(self) -> bool:
        """Whether the server sent a whole completion in place of a stream."""
        return self._source.was_buffered

    @property
    def anomalies(self) -> int:
        """How many events only the tolerant path understood, or were skipped."""
        return self._source.decoder.anomalies

    def __repr__(self) -> str:
        state = "completed" if self.completed else "open" if self._source.open else "failed"
        return f"<ChatCompletionStream {state} {self._reply.request.url}>"

    def __del__(self) -> None:
        # What __init__ could not finish has nothing to close.
        source = getattr(self, "_source", None)
        if source is not None and source.open:
            source.abandon()
            warnings.warn(
                f"{self!r} was dropped before its end; use 'async with', or call aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
