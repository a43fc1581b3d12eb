"""Merges the chunks of several requests into the chunks of one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..assembly import CompletionAssembler
from ..errors import FanOutError, GradientError, StreamError, StreamInterruptedError, copy_of
from ..stream import ReadTimes, StreamReader, Timing
from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    CompletionUsage,
    RateLimits,
    TextBatch,
    largest_usage,
    sum_usage,
)

Chunks: TypeAlias = Sequence[ChatCompletionChunk]

# If this many chunks are unread, a request that receives more waits until the user has read.
_MAX_WAITING = 1024


class MergedChunks:
    """The chunks of several requests in the order in which they arrive: the `ChunkSource` of a `FanOut`.

    Chunks that were received and chunks that the user has read are two states. Each branch assembles the chunks that it
    receives: the end of its reply, the ``.partial`` of its error and ``stop_when`` depend on this state. The stream assembles
    the chunks that the user has read: ``snapshot``, events and readers of single choices depend on this state. If the user
    only awaits the completion and reads no chunk, the second state is not needed. This class then drops the chunks, and at
    the end the stream's assembler gets each reply as one chunk.

    Args:
        assembler: The stream's assembler.
        cancel: Cancels the requests.

    Attributes:
        on_chunks: Called with chunks as they arrive while a task awaits the completion; None otherwise. If the chunks
            waited to be read, they would leave the CPU's cache and take 1.5 times as long.
        error: The error that ended the fan-out, or None.
        ended: Whether all requests ended without an error, and all chunks were read.
        request_id: The server's id of the request that was answered first.
        rate_limits: The rate limits in the headers of the latest reply.
        attempts: Number of requests made so far. Retries are counted once the reply or the error has come.
    """

    def __init__(self, assembler: CompletionAssembler, cancel: Callable[[], None]) -> None:
        self._assembler = assembler
        self._cancel = cancel
        self._waiting: list[Chunks] = []
        self._waiting_count = 0
        self._readers: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []
        self._finished = False
        self._started: float | None = None
        self._answered: float | None = None
        self._times = ReadTimes()
        self._usages: dict[object, CompletionUsage] = {}  # the latest usage of each request
        self._usage: CompletionUsage | None = None  # the usage of all requests
        self._open_readers: set[StreamReader] = set()
        self._closed_anomalies = 0  # anomalies of the readers that are closed
        # Functions that return what each reply has received so far, as one chunk. None once a chunk was returned to the
        # user: from then on the stream's assembler has the state that the user has read, and no chunk may be skipped.
        self._received: list[Callable[[], ChatCompletionChunk]] | None = []
        self._skipping = False
        self.on_chunks: Callable[[Chunks], None] | None = None
        self.error: Exception | None = None
        self.ended = False
        self.request_id: str | None = None
        self.rate_limits: RateLimits | None = None
        self.attempts = 0

    def start(self) -> None:
        """Begin, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    # The requests' side

    def on_response(self, request_id: str | None, rate_limits: RateLimits | None, attempts: int) -> None:
        """Note the headers of a reply."""
        if self._answered is None:
            self._answered = self._loop.time()
            self.request_id = request_id
        self.attempts += attempts - 1  # the first attempt was counted when it was made
        if rate_limits is not None:
            self.rate_limits = rate_limits

    def on_open(self, reader: StreamReader) -> None:
        """Note that a reply is being read."""
        self._open_readers.add(reader)

    def on_close(self, reader: StreamReader) -> None:
        """Note that a reply is no longer read."""
        self._open_readers.discard(reader)
        self._closed_anomalies += reader.decoder.anomalies

    def add_reply(self, received: Callable[[], ChatCompletionChunk]) -> None:
        """Note a reply whose chunks follow.

        Args:
            received: Returns what the reply has received so far, as one chunk.
        """
        if self._received is not None:
            self._received.append(received)

    async def put(self, token: object, chunks: Chunks) -> None:
        """Add chunks; wait while too many wait to be read.

        Args:
            token: Identifies the request of the chunks.
            chunks: The chunks, which are changed: their usage becomes that of all requests so far.
        """
        if type(chunks) is not TextBatch:  # the chunks of a batch have no usage
            for chunk in chunks:
                if chunk.usage is not None:
                    known = self._usages.get(token)
                    self._usages[token] = largest_usage(known, chunk.usage)
                    self._usage = sum_usage(self._usage, self._usages[token], less=known)
                    chunk.usage = self._usage
        self._times.content_at.append(self._loop.time())
        if self._skipping:
            return
        if self.on_chunks is not None and not self._waiting:
            self._received = None
            self.on_chunks(chunks)
            return
        self._waiting.append(chunks)
        self._waiting_count += len(chunks)
        _wake(self._readers)
        while self._waiting_count >= _MAX_WAITING:
            writer = self._loop.create_future()
            self._writers.append(writer)
            await writer

    def finish(self, error: Exception | None = None) -> None:
        """Note that no more chunks will be added."""
        if self._finished:
            return
        self._finished = True
        self.error = error
        self._times.ended_at = self._loop.time()
        # `_cancel` is a method of an object that refers to this one. Without this line, the cycle would keep everything
        # received in memory until a garbage collection.
        self._cancel = _nothing
        _wake(self._readers)

    # The reader's side

    async def next_chunks(self) -> Chunks | None:
        """Return the chunks that wait to be read, at least one; None at the end.

        Raises:
            Exception: The error that ended the fan-out, after all chunks before it.
        """
        if self._started is None:
            raise TypeError(
                "nothing was sent yet: use 'async with' ('with' for Gradient), or call completion()"
            )
        while self._skipping or not self._waiting:
            if self._finished:
                self.stop_skipping()
                if self.error is not None:
                    raise self._with_partial(self.error)
                self.ended = True
                return None
            reader = self._loop.create_future()
            self._readers.append(reader)
            await reader
        self._received = None
        return self._take_waiting()

    def _take_waiting(self) -> Chunks:
        waiting, self._waiting, self._waiting_count = self._waiting, [], 0
        _wake(self._writers)
        return waiting[0] if len(waiting) == 1 else [chunk for chunks in waiting for chunk in chunks]

    def skip(self) -> None:
        """Drop chunks from now on instead of returning them; do nothing if a chunk has been returned already."""
        if self._received is not None:
            self._skipping = True
            self._take_waiting()

    def stop_skipping(self) -> None:
        """Add the dropped chunks to the stream's assembler, and return chunks from now on."""
        if not self._skipping:
            return
        self._skipping = False
        received, self._received = self._received or [], None
        for reply in received:
            chunk = reply()
            if chunk.usage is not None:
                chunk.usage = self._usage
            try:
                self._assembler.add(chunk)
            except StreamError as error:
                self.fail(error)

    def fail(self, error: Exception) -> Exception:
        """Cancel all requests, because the stream can't assemble a chunk."""
        if self.error is None:
            self._cancel()
            self.finish()
            self.error = error.with_traceback(None)
            self._take_waiting()
        return self.error

    def _with_partial(self, error: Exception) -> Exception:
        """Return the error to raise: the caller's own error, or a copy of one of ours, see `copy_of`."""
        if isinstance(error, (FanOutError, StreamError)) and error.partial is None:
            error.partial = self.completion()
        return copy_of(error) if isinstance(error, GradientError) else error

    @property
    def open(self) -> bool:
        """Whether the requests have begun and not all of them have ended."""
        return self._started is not None and not self._finished

    def close(self) -> None:
        """Cancel all requests."""
        self._cancel()

    def forget_callers_error(self) -> None:
        """Replace an error of the caller's code by an error of this library.

        The caller's error is raised itself, because it may have no copy. Its traceback has frames that refer to this
        object, and so the two are a reference cycle, which ends here at the latest.
        """
        if self.error is not None and not isinstance(self.error, GradientError):
            self.error = closed_error()

    def completion(self) -> ChatCompletion:
        """Return the completion as far as it was read, with request id, rate limits and attempts of the replies."""
        self.stop_skipping()
        completion = self._assembler.completion
        completion.request_id = self.request_id
        completion.rate_limits = self.rate_limits
        completion.attempts = max(1, self.attempts)
        return completion

    @property
    def anomalies(self) -> int:
        """Number of events, in all replies, that were repaired or skipped."""
        return self._closed_anomalies + sum(reader.decoder.anomalies for reader in self._open_readers)

    @property
    def timing(self) -> Timing:
        """Durations from the start of all requests."""
        if self._started is None:
            return self._times.timing(0.0, 0.0, 0.0, 0.0, 0.0)
        now = self._loop.time()
        return self._times.timing(self._started, 0.0, self._started, self._answered or now, now)


def closed_error() -> StreamInterruptedError:
    """Make the error of a fan-out that is read after it was closed."""
    return StreamInterruptedError(
        "this fan-out was closed before its end; read it before you leave its block or close it",
        phase="body",
    )


def _nothing() -> None:
    """Take the place of the function that cancels the requests once there is nothing to cancel."""


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
