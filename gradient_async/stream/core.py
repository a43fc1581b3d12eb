"""The stream as its user has it: one cursor, several ways to read, everything assembled as it comes."""

from __future__ import annotations

import asyncio
import warnings
from operator import length_hint
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from ..assembly import CompletionAssembler
from ..config import Limits, Timeout
from ..errors import ResponseInfo, StreamError, StreamLimitError
from ..events import EventBuilder
from ..types import ChatCompletion, ChatCompletionChunk, Headers, RateLimits
from .choices import Choices
from .raw import undelivered
from .source import Source
from .timing import Timing
from .views import ChoiceStream, EventStream, RawStream, TextStream

if TYPE_CHECKING:
    from ..session import Reply

__all__ = ["ChatCompletionStream"]


class ChatCompletionStream:
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
        self._reply = reply
        self._limits = limits
        self._assembler = CompletionAssembler(n=n, limits=limits, strict=strict)
        self._source = Source(
            reply, self._assembler, timeout=timeout, limits=limits, strict=strict, on_bad_event=on_bad_event
        )
        self._builder: EventBuilder | None = None
        self.refused = False  # whether a chunk could not be assembled
        self._relayed = True  # whether every byte received was given out as such
        # The chunks brought last; those the iterator has yielded are behind the cursor, and the first
        # `_assembled` of them are in the assembler.
        self._batch: list[ChatCompletionChunk] = []
        self._ready = iter(self._batch)
        self._assembled = 0
        # One task reads at a time, for all.
        self._reading = False
        self._waiters: list[asyncio.Future[None]] = []
        # Once a choice has a reader of its own, chunks go to lanes, the cursor's own among them.
        self._choices: Choices | None = None
        self._main_used = False

    # The cursor

    def __aiter__(self) -> ChatCompletionStream:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        for chunk in self._ready:
            return chunk
        return await self._next_chunk()

    async def _next_chunk(self) -> ChatCompletionChunk:
        self._main_used = True
        while True:
            if self._choices is not None:
                main = self._choices.open_main()
                if main:
                    return main.take()
                if main.overflowed:
                    raise self.overflow("the reader of the whole stream")
            if not await self.pump():
                raise StopAsyncIteration
            for chunk in self._ready:
                return chunk

    async def pump(self) -> bool:
        """Read once for all who read; return False at the end.

        Raises:
            APIError: How the stream ended, if badly.
        """
        if self._reading:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
            return True
        self._reading = True
        self._relayed = False
        try:
            self.settle()
            batch = await self._source.advance()
        finally:
            # Also when this task is cancelled: one of those who wait takes over.
            self._reading = False
            self._wake()
        self._receive(batch)
        return bool(batch)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _receive(self, batch: list[ChatCompletionChunk]) -> None:
        self._assembled = 0
        if self._choices is None:
            self._batch = batch
            self._ready = iter(batch)
        else:
            self._assemble(batch)
            self._choices.put(batch)

    def settle(self) -> None:
        """Assemble what the cursor has passed."""
        passed = len(self._batch) - length_hint(self._ready)
        if passed > self._assembled:
            chunks = self._batch[self._assembled : passed]
            self._assembled = passed
            self._assemble(chunks)

    def _assemble(self, chunks: list[ChatCompletionChunk]) -> None:
        try:
            self._assembler.extend(chunks)
        except StreamError as error:
            self.refused = True
            self._source.fail(error)  # the next read raises it

    def _pass_all(self) -> list[ChatCompletionChunk]:
        """Move the cursor past what is ready; return that, assembled."""
        rest = list(self._ready)
        self.settle()
        return rest

    # Ways to read

    @property
    def text(self) -> TextStream:
        """The text of choice 0, piece by piece; shares the cursor."""
        return TextStream(self)

    def events(self) -> EventStream:
        """The stream as typed events; shares the cursor."""
        if self._builder is None:
            self.settle()
            self._builder = EventBuilder(self._assembler)
        return EventStream(self, self._builder)

    @property
    def raw(self) -> RawStream:
        """The bytes as received, ``[DONE]`` included, to relay; shares the cursor, and assembles too."""
        return RawStream(self)

    async def next_raw(self) -> bytes:
        """Return the next bytes.

        Raises:
            APIError: How the stream ended, if badly; after the bytes that tell it.
            StopAsyncIteration: At the end.
        """
        source = self._source
        while self._reading:
            await self.pump()
        if not self._relayed:
            # Chunks were read before: bytes go on right after the last of them.
            self._relayed = True
            rest = b"" if source.was_buffered else undelivered(source.decoder, self._batch, self._ready)
            self._pass_all()
            self._pass_pending()
            if rest:
                return rest
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
            self._wake()
        self._pass_pending()
        return source.received

    def _pass_pending(self) -> None:
        """Move the cursor past what was read and not decoded yet; an error waits for the next read."""
        while self._source.decoder.pending and self._source.error is None:
            self._receive(self._source.pull())
            self._pass_all()

    def choice(self, index: int) -> ChoiceStream:
        """The chunks of one choice; several tasks may read several choices.

        Whoever lacks data reads for all. A choice asked for late begins with one chunk of what came
        since the first choice was asked for; the same index again goes on where its reader stopped.

        Args:
            index: Which choice, from 0. One that never comes ends empty.
        """
        if self._choices is None:
            self.settle()
            rest = list(self._ready)
            self._choices = Choices(self._assembler, self._limits.buffered_bytes, main=self._main_used)
            lane = self._choices.open(index)
            self._batch = []
            self._ready = iter(self._batch)
            self._receive(rest)
        else:
            lane = self._choices.open(index)
        return ChoiceStream(self, index, lane)

    def overflow(self, who: str) -> StreamLimitError:
        """Make the error of a reader that fell too far behind."""
        return StreamLimitError(
            f"{who} fell behind by more than buffered_bytes={self._limits.buffered_bytes}; "
            "read faster, or raise Limits(buffered_bytes=...)",
            partial=self.snapshot,
            attempts=self.attempts,
            request_id=self.request_id,
        )

    # The whole

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion as far as it has been read; a new object each time."""
        self.settle()
        return self._source.completion()

    async def completion(self) -> ChatCompletion:
        """Read to the end; return the whole completion.

        Raises:
            StreamError: If the stream did not end as it should; ``.partial`` has what came.
        """
        self._pass_all()
        while await self.pump():
            self._pass_all()
        return self._source.completion()

    async def get_final_completion(self) -> ChatCompletion:
        """The same as `completion`."""
        return await self.completion()

    async def until_done(self) -> ChatCompletionStream:
        """Read to the end; return the stream itself.

        Raises:
            StreamError: If the stream did not end as it should.
        """
        await self.completion()
        return self

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
    def completed(self) -> bool:
        """Whether it was read to its end and nothing is missing."""
        return self._source.ended

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

    # Leaving

    async def aclose(self) -> None:
        """Give up what is left; the connection is closed at once unless the stream was read to its end."""
        self._source.close()

    async def close(self) -> None:
        """The same as `aclose`."""
        self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

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
