"""One request of a fan-out, streamed or awaited, with new indices of its choices. A second request may race the first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..assembly import CompletionAssembler
from ..decoding import as_chunk
from ..errors import APIError, StreamError
from ..stream import StreamReader
from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    Received,
    TextBatch,
)
from .merge import Chunks, MergedChunks

T = TypeVar("T")

_MAX_EARLY = 64  # maximum number of chunks without content that are kept

if TYPE_CHECKING:
    from ..session.reply import Reply


class StreamedReply(NamedTuple):
    """A streamed reply: its headers, the reader of its body, and the assembler by which the reader judges its end."""

    reply: Reply
    reader: StreamReader
    assembler: CompletionAssembler


class Requester(Protocol):
    """Sends the requests of a fan-out."""

    async def stream(self, n: int | None, expect: int) -> StreamedReply:
        """Send a streamed request.

        Args:
            n: Value of ``n`` to send, or None.
            expect: Number of choices that a complete stream has.
        """
        ...

    async def fetch(self, n: int | None) -> ChatCompletion:
        """Send an awaited request."""
        ...


class Branch:
    """One request of a fan-out.

    Args:
        requester: Sends the request.
        merged: Gets the chunks of the reply.
        streamed: Whether to stream the reply.
        index: Index that the only choice gets; None for several choices, which keep the server's indices.
        n: Value of ``n`` to send; None for a single choice.
        expect: Number of choices that a complete reply has.

    Attributes:
        requests: Number of requests sent: two, if a second request raced the first.
        on_request: Called with this branch whenever a request is sent.
        on_finish: Awaited with this branch and a choice's index when that choice has its finish_reason. If it
            returns True, the rest of the reply is not read.
    """

    def __init__(
        self,
        requester: Requester,
        merged: MergedChunks,
        *,
        streamed: bool,
        index: int | None = None,
        n: int | None = None,
        expect: int = 1,
    ) -> None:
        self._requester = requester
        self._merged = merged
        self._streamed = streamed
        self._index = index
        self._n = n
        self._expect = expect
        # Identifies this branch in `MergedChunks`; holding `self` there would keep the branch alive.
        self._token = object()
        self._winner: asyncio.Task[Any] | None = None
        self._racers: list[asyncio.Task[None]] = []
        self._reply: StreamedReply | None = None
        self._fetched: ChatCompletion | None = None
        self.requests = 0
        self.on_request: Callable[[Branch], None] | None = None
        self.on_finish: Callable[[Branch, int], Awaitable[bool]] | None = None

    async def run(self, *, hedge_after: float | None) -> None:
        """Send the request and pass on the chunks of its reply.

        Args:
            hedge_after: Seconds without content after which a second request races the first, or None.

        Raises:
            GradientError: If the request failed.
        """
        if hedge_after is None:
            await self._attempt()
        elif failures := await self._race(hedge_after):
            raise failures.pop()  # `pop` leaves no reference to the error here: see `copy_of`

    def is_finished(self, choice: Choice) -> bool:
        """Whether a choice of `completion` is whole; other choices of the reply may still be incomplete."""
        if self._reply is None:
            return choice.finish_reason is not None
        return self._reply.assembler.choices[choice.index].finished

    # Facts about the reply; after a hedge, about the reply that was chosen

    @property
    def id(self) -> str:
        """The id of the completion; "" until it is known."""
        if self._fetched is not None:
            return self._fetched.id
        return "" if self._reply is None else self._reply.assembler.id

    @property
    def request_id(self) -> str | None:
        """The server's id of the request; None until it is known."""
        if self._fetched is not None:
            return self._fetched.request_id
        return None if self._reply is None else self._reply.reply.request_id

    def describe(self, result: Received) -> None:
        """Copy the headers and the body of the reply to a result, as far as they are known."""
        if self._fetched is not None:
            result.receive_as(self._fetched)
        elif self._reply is not None:
            result.receive(None, None, self._reply.reply.header_pairs)

    @property
    def completion(self) -> ChatCompletion | None:
        """The completion as far as it was received, with the server's indices; None if no reply has won yet."""
        return self._fetched if self._reply is None else self._reply.reader.completion()

    @property
    def choices(self) -> list[Choice]:
        """The choices of `completion`; empty if no reply has won yet."""
        if self._reply is not None:
            return self._reply.assembler.to_choices()
        return [] if self._fetched is None else self._fetched.choices

    async def _attempt(self) -> None:
        """Send one request and pass on its chunks, unless another request wins the race."""
        self.requests += 1
        self._merged.attempts += 1
        if self.on_request is not None:
            self.on_request(self)
        if self._streamed:
            await self._read(await self._count(self._requester.stream(self._n, self._expect)))
            return
        completion = await self._count(self._requester.fetch(self._n))
        self._merged.on_response(completion.request_id, completion.rate_limits, completion.attempts)
        chunk = as_chunk(completion)
        self._win(lambda: chunk)
        self._fetched = completion
        await self._put([chunk])

    async def _count(self, reply: Awaitable[T]) -> T:
        """Await a reply, and count the retries if there is none."""
        try:
            return await reply
        except APIError as error:
            self._merged.attempts += error.attempts - 1
            raise

    async def _read(self, streamed: StreamedReply) -> None:
        reply, reader, assembler = streamed
        # The id may become part of an error, and must not contain a key.
        request_id = reply.redactor.value(reply.request_id)
        self._merged.on_response(request_id, reply.rate_limits, reply.attempts)
        self._merged.on_open(reader)
        # Chunks before the first content; a request wins the race only with content. A server may send chunks without
        # content for ever, so only the first are kept. If there are more, one chunk with everything that was received
        # is passed on instead.
        early: list[ChatCompletionChunk] = []
        try:
            while (chunks := await reader.next_chunks()) is not None:
                _assemble(chunks, reader, assembler)
                if self._reply is None:
                    if not reader.has_content:
                        early += chunks if len(early) <= _MAX_EARLY else ()
                        continue
                    self._win_with(streamed)
                    if len(early) > _MAX_EARLY:
                        chunks = [_received(assembler, None)]
                    elif early:
                        chunks = [*early, *chunks]
                if await self._put(chunks):
                    return
            if self._reply is None:
                self._win_with(streamed)
                await self._put(early if len(early) <= _MAX_EARLY else [_received(assembler, None)])
        finally:
            reader.close()
            self._merged.on_close(reader)

    def _win_with(self, streamed: StreamedReply) -> None:
        self._reply = streamed
        self._win(partial(_received, streamed.assembler, self._index))

    def _win(self, received: Callable[[], ChatCompletionChunk]) -> None:
        """Win the race with the first content, and cancel the other request."""
        self._merged.add_reply(received)
        if self._racers:
            self._winner = asyncio.current_task()
        for racer in self._racers:
            if racer is not self._winner:
                racer.cancel()

    async def _put(self, chunks: Chunks) -> bool:
        """Pass on chunks; return True if the rest of the reply is not needed."""
        if self._index is not None:
            chunks = _renumber(chunks, self._index)
        await self._merged.put(self._token, chunks)
        if self.on_finish is not None and type(chunks) is not TextBatch:  # a batch has no finish_reason
            for chunk in chunks:
                for choice in chunk.choices:
                    if choice.finish_reason is not None and await self.on_finish(self, choice.index):
                        return True
        return False

    # The race of two requests

    async def _race(self, hedge_after: float) -> list[BaseException]:
        """Send a second request if the first reply has no content in time; return the error, if the request failed."""
        racers = self._racers
        racers.append(asyncio.ensure_future(self._attempt()))
        try:
            await asyncio.wait(racers, timeout=hedge_after)
            if self._winner is None and not racers[0].done():
                racers.append(asyncio.ensure_future(self._attempt()))
            return await self._wait_for_winner()
        finally:
            for racer in racers:
                racer.cancel()
            # This object drops its tasks, because a task keeps its exception, whose frames refer to this object. It drops them
            # before the wait, because the wait may be cancelled.
            self._racers, self._winner = [], None
            await asyncio.wait(racers)

    async def _wait_for_winner(self) -> list[BaseException]:
        """Wait until the winner has ended, or until both requests have ended without a winner.

        Returns:
            The winner's error, or the first error if there is no winner; empty if there is no error.
        """
        pending = set(self._racers)
        failures: list[BaseException] = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for racer in done:
                failure = None if racer.cancelled() else racer.exception()
                if racer is self._winner and not racer.cancelled():
                    return [] if failure is None else [failure]
                if failure is not None:
                    failures.append(failure)
        return failures[:1] or [asyncio.CancelledError()]


def _assemble(chunks: Chunks, reader: StreamReader, assembler: CompletionAssembler) -> None:
    """Add chunks; if one is refused, the reader's next read raises the error."""
    rest = chunks if type(chunks) is TextBatch else iter(chunks)
    try:
        assembler.extend(rest)
    except StreamError as error:
        if rest is not chunks:
            # The chunks after the refused one have been received as well, and belong in the error's ``.partial``.
            for chunk in rest:
                with contextlib.suppress(StreamError):
                    assembler.add(chunk)
        reader.fail(error)


def _renumber(chunks: Chunks, index: int) -> Chunks:
    """Give the only choice of a reply another index, in place."""
    if type(chunks) is TextBatch:
        if chunks.choice == 0:
            chunks.choice = index  # the chunks of the batch are made later, with this index
            return chunks
        chunks = list(chunks)
    for chunk in chunks:
        choices = chunk.choices
        if len(choices) > 1 or (choices and choices[0].index != 0):
            # The server sent more choices than requested. They are dropped, because every other index belongs to the
            # choice of another request.
            choices = chunk.choices = [choice for choice in choices if choice.index == 0]
        for choice in choices:
            choice.index = index
    return chunks


def _received(assembler: CompletionAssembler, index: int | None) -> ChatCompletionChunk:
    """Return everything that a stream has received as one chunk, so that another assembler can continue from it."""
    return assembler.chunk if index is None else _renumber([assembler.chunk], index)[0]
