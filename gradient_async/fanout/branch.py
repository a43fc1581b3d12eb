"""One request of a fan-out: streamed or awaited, its choices renumbered, maybe raced by a second one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..decoding import as_chunk
from ..session.call import Lease
from ..stream import ChatCompletionStream, has_content
from ..types import ChatCompletion, ChatCompletionChunk
from .merged import Merged
from .rate_limiter import RateLimiter

__all__ = ["Branch", "Senders"]


class Senders(Protocol):
    """How requests are made."""

    async def stream(self, n: int | None, expect: int, lease: Lease) -> ChatCompletionStream:
        """Make a streamed request.

        Args:
            n: Value of ``n`` to send, or None.
            expect: How many choices the stream is incomplete without.
            lease: Lets its attempts go.
        """
        ...

    async def fetch(self, n: int | None, lease: Lease) -> ChatCompletion:
        """Make an awaited request."""
        ...


class Branch:
    """One request.

    Args:
        senders: How to make it.
        merged: Where its chunks go.
        rate_limiter: When it may go.
        params: Its parameters, to tell how much it will take.
        streamed: Whether to stream it.
        first: Index of its first choice in the whole.
        n: Value of ``n`` to send; None for a single choice.
        expect: How many choices it is incomplete without.

    Attributes:
        requests: How many requests were made: two, if a second one raced the first.
        on_begin: Is called with this branch whenever one is made.
        on_finish: Is awaited when a choice has its finish_reason, with this branch and the choice's index, or
            None; if it returns true, the rest is given up.
    """

    def __init__(
        self,
        senders: Senders,
        merged: Merged,
        rate_limiter: RateLimiter,
        params: dict[str, Any],
        *,
        streamed: bool,
        first: int = 0,
        n: int | None = None,
        expect: int = 1,
    ) -> None:
        self._senders = senders
        self._merged = merged
        self._rate_limiter = rate_limiter
        self._params = params
        self._streamed = streamed
        self._first = first
        self._n = n
        self._expect = expect
        self._who = object()  # its name in the whole, which would keep the branch itself to the end
        self._winner: asyncio.Task[Any] | None = None
        self._racers: list[asyncio.Task[None]] = []
        self._stream: ChatCompletionStream | None = None
        self._fetched: ChatCompletion | None = None
        self.requests = 0
        self.on_begin: Callable[[Branch], None] = _nothing
        self.on_finish: Callable[[Branch, int], Awaitable[bool]] | None = None

    async def run(self, *, hedge_after: float | None) -> None:
        """Make the request and bring its chunks.

        Args:
            hedge_after: Seconds without content after which a second request races the first, or None.

        Raises:
            GradientError: If it failed.
        """
        turn = await self._rate_limiter.acquire(self._params)
        error: BaseException | None = asyncio.CancelledError()
        try:
            if hedge_after is None:
                await self._attempt(turn)
            else:
                await self._race(turn, hedge_after)
            error = None
        except Exception as failure:
            error = failure
            raise
        finally:
            source = self.source
            turn.release(error=error, usage=None if source is None else source.usage)

    @property
    def source(self) -> ChatCompletion | ChatCompletionStream | None:
        """The reply that counts: it has an id, a request id and usage; None before."""
        return self._fetched if self._stream is None else self._stream

    @property
    def completion(self) -> ChatCompletion | None:
        """What it brought, as far as it has come, with the indices that the server gave; None before."""
        return self._fetched if self._stream is None else self._stream.snapshot

    async def _attempt(self, lease: Lease) -> None:
        """Make one request; what one brings that loses the race is dropped."""
        self.requests += 1
        self.on_begin(self)
        if self._streamed:
            stream = await self._senders.stream(self._n, self._expect, lease)
            self._merged.opened(stream)
            try:
                await self._read(stream)
            finally:
                self._merged.closed(stream)
            return
        completion = await self._senders.fetch(self._n, lease)
        self._merged.answered(completion.request_id, completion.rate_limits, completion.attempts)
        self._claim()
        self._fetched = completion
        await self._put([as_chunk(completion)])

    async def _read(self, stream: ChatCompletionStream) -> None:
        early: list[ChatCompletionChunk] = []  # without content: the model has not spoken yet
        async with stream:
            while chunks := await stream.take():
                if self._stream is None:
                    early += chunks
                    if not has_content(chunks):
                        continue
                    self._claim()
                    self._stream = stream
                    chunks, early = early, []
                if await self._put(chunks):
                    return
            if self._stream is None:
                self._claim()
                self._stream = stream
                await self._put(early)

    def _claim(self) -> None:
        """Win the race, as the first to speak."""
        self._winner = asyncio.current_task()
        for racer in self._racers:
            if racer is not self._winner:
                racer.cancel()

    async def _put(self, chunks: list[ChatCompletionChunk]) -> bool:
        """Bring chunks; return whether that is enough."""
        first = self._first
        if self._n is None:
            for chunk in chunks:
                choices = chunk.choices
                if len(choices) > 1 or (choices and choices[0].index != 0):
                    # Nobody asked for more than one, and there is no place for them.
                    choices = chunk.choices = [choice for choice in choices if choice.index == 0]
                for choice in choices:
                    choice.index = first
        await self._merged.put(self._who, chunks)
        if self.on_finish is not None:
            for chunk in chunks:
                for choice in chunk.choices:
                    if choice.finish_reason is not None and await self.on_finish(self, choice.index):
                        return True
        return False

    # A race

    async def _race(self, lease: Lease, hedge_after: float) -> None:
        """Make a second request if the first does not speak in time; the first of both to speak goes on."""
        racers = self._racers
        racers.append(asyncio.ensure_future(self._attempt(lease)))
        try:
            await asyncio.wait(racers, timeout=hedge_after)
            if self._winner is None and not racers[0].done():
                racers.append(asyncio.ensure_future(self._attempt(lease)))
            await self._finish()
        finally:
            for racer in racers:
                racer.cancel()
            await asyncio.wait(racers)

    async def _finish(self) -> None:
        """Wait for the one that counts; as long as none has spoken, for both.

        Raises:
            GradientError: Of the one that counts, or of the first that failed if none does.
        """
        pending = set(self._racers)
        failures: list[BaseException] = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for racer in done:
                failure = None if racer.cancelled() else racer.exception()
                if racer is self._winner and not racer.cancelled():
                    if failure is not None:
                        raise failure
                    return
                if failure is not None:
                    failures.append(failure)
        raise failures[0] if failures else asyncio.CancelledError


def _nothing(_branch: Branch) -> None:
    """Nobody wants to know."""
