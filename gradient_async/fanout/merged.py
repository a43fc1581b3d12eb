"""Chunks of several requests as the chunks of one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..assembly import CompletionAssembler
from ..errors import FanOutError, StreamError
from ..stream import ChatCompletionStream, ReadTimes, Timing
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage, RateLimits, sum_usage

__all__ = ["Merged"]

# Chunks that may wait for their reader before those who bring them have to wait.
_WAITING = 1024


class Merged:
    """Collects what several requests bring until it is read.

    Args:
        assembler: Where the reader adds the chunks.
        give_up: Ends what is under way.

    Attributes:
        sink: Takes chunks as they come while somebody reads to the end, or None: chunks that wait for their reader
            are cold by then, and cost him half as much again.
        error: How it ended, if badly.
        ended: Whether it ended well.
        request_id: The server's name for the request that was answered first.
        rate_limits: What the latest reply's headers said.
        attempts: How many requests were made, of those that were answered.
    """

    def __init__(self, assembler: CompletionAssembler, give_up: Callable[[], None]) -> None:
        self._assembler = assembler
        self._give_up = give_up
        self._waiting: list[ChatCompletionChunk] = []
        self._readers: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []
        self._over = False
        self._started: float | None = None
        self._answered: float | None = None
        self._pace = ReadTimes()
        self._usages: dict[object, CompletionUsage] = {}  # what each request told last
        self._usage: CompletionUsage | None = None  # all together
        self._streams: set[ChatCompletionStream] = set()  # that are being read
        self._anomalies = 0  # in those that were
        self.sink: Callable[[list[ChatCompletionChunk]], None] | None = None
        self.error: Exception | None = None
        self.ended = False
        self.request_id: str | None = None
        self.rate_limits: RateLimits | None = None
        self.attempts = 0

    def start(self) -> None:
        """Begin, in the loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    # Those who bring chunks

    def answered(self, request_id: str | None, rate_limits: RateLimits | None, attempts: int) -> None:
        """Note that a request was answered."""
        if self._answered is None:
            self._answered = self._loop.time()
            self.request_id = request_id
        self.attempts += attempts
        if rate_limits is not None:
            self.rate_limits = rate_limits

    def opened(self, stream: ChatCompletionStream) -> None:
        """Note that a request was answered by a stream, which is read from now on."""
        self.answered(stream.request_id, stream.rate_limits, stream.attempts)
        self._streams.add(stream)

    def closed(self, stream: ChatCompletionStream) -> None:
        """Note that a stream was read, or left."""
        self._streams.discard(stream)
        self._anomalies += stream.anomalies

    async def put(self, who: object, chunks: list[ChatCompletionChunk]) -> None:
        """Add chunks; wait if their reader is far behind.

        Args:
            who: Stands for the request they are of.
            chunks: Its next chunks. Usage becomes that of all requests so far.
        """
        for chunk in chunks:
            if chunk.usage is not None:
                self._usage = sum_usage(self._usage, chunk.usage, less=self._usages.get(who))
                self._usages[who] = chunk.usage
                chunk.usage = self._usage
        self._pace.content_at.append(self._loop.time())
        if self.sink is not None and not self._waiting:
            self.sink(chunks)
            return
        self._waiting += chunks
        _wake(self._readers)
        while len(self._waiting) >= _WAITING:
            writer = self._loop.create_future()
            self._writers.append(writer)
            await writer

    def finish(self, error: Exception | None = None) -> None:
        """Say that nothing more will come."""
        if self._over:
            return
        self._over = True
        self.error = error
        self._pace.ended_at = self._loop.time()
        self._give_up = (
            _nothing  # nothing is under way; and in a cycle, what came would wait for the collector
        )
        _wake(self._readers)

    # The reader

    async def next_chunks(self) -> list[ChatCompletionChunk] | None:
        """Return what has come; None at the end.

        Raises:
            Exception: How it ended, if badly; once all that came before was returned.
        """
        if self._started is None:
            raise TypeError("nothing was sent yet: use 'async with', or await completion()")
        while not self._waiting:
            if self._over:
                if self.error is not None:
                    raise self._whole(self.error)
                self.ended = True
                return None
            reader = self._loop.create_future()
            self._readers.append(reader)
            await reader
        chunks, self._waiting = self._waiting, []
        _wake(self._writers)
        return chunks

    def fail(self, error: Exception) -> Exception:
        """End it with an error: what came can't be used."""
        if self.error is None:
            self._give_up()
            self.finish()
            self.error = error
            self._waiting.clear()
        return self.error

    def _whole(self, error: Exception) -> Exception:
        """Put everything that came into the error; all of it has been read by now."""
        if isinstance(error, (FanOutError, StreamError)) and error.partial is None:
            error.partial = self.completion()
        return error

    @property
    def open(self) -> bool:
        """Whether it was begun, and has neither ended nor failed."""
        return self._started is not None and not self._over

    def close(self) -> None:
        """Give it up."""
        self._give_up()

    def completion(self) -> ChatCompletion:
        """Return what has been assembled, with what is known of the replies."""
        completion = self._assembler.completion
        completion.request_id = self.request_id
        completion.rate_limits = self.rate_limits
        completion.attempts = max(1, self.attempts)
        return completion

    @property
    def anomalies(self) -> int:
        """How many events of all streams only the tolerant path understood, or were skipped."""
        return self._anomalies + sum(stream.anomalies for stream in self._streams)

    @property
    def timing(self) -> Timing:
        """How long things took, from the start of all."""
        if self._started is None:
            return self._pace.timing(0.0, 0.0, 0.0, 0.0, 0.0)
        now = self._loop.time()
        return self._pace.timing(self._started, 0.0, self._started, self._answered or now, now)


def _nothing() -> None:
    """There is nothing to give up."""


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
