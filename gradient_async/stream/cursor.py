"""The cursor of a stream of chunks, and the views that share it: chunks, text, events, one choice, the completion.

Theory of operation. A stream has one cursor. `fill` makes one read and puts its chunks after the cursor. Every view
(chunks, text, events, bytes, choices, the completion) moves the cursor over the chunks after it, and calls `fill` if there
are none. One task at a time fills, for all tasks; the others wait, and one of them takes over if that task is cancelled.

Chunks before the cursor have been read. They are assembled later, many together: the code of the assembler then stays in
the CPU's cache, which halves its cost if a hundred streams get a token each per iteration of the loop. Everything that
depends on the assembler (snapshot, usage, events, the end) calls `assemble_read` first, so the delay is invisible.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from operator import length_hint
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from ..assembly import CompletionAssembler
from ..errors import APIError, StreamError, StreamLimitError
from ..events import ChatCompletionStreamEvent, EventBuilder
from ..output import Answer, parse_completion, parse_so_far
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage, TextBatch
from .misuse import AsyncForOnly, AsyncOnly, NoMethod
from .queues import ChoiceQueues, ChunkQueue, Waiters
from .reader import StreamReader

if TYPE_CHECKING:
    # `typing.TypeVar` has defaults from Python 3.13 on. Type checkers know `typing_extensions` even where it is not installed.
    from typing_extensions import TypeVar as TypeVarWithDefault

    T_co = TypeVarWithDefault("T_co", default=Any, covariant=True)
else:
    T_co = TypeVar("T_co", covariant=True)

# Up to this many chunks that have been read wait until they are assembled together.
_TOGETHER = 32


class ChunkSource(Protocol):
    """A source of chunks: a `StreamReader`, or the `MergedChunks` of a fan-out."""

    @property
    def ended(self) -> bool:
        """Whether the source ended without an error and was read to its end."""
        ...

    async def next_chunks(self) -> Sequence[ChatCompletionChunk] | None:
        """Return the next chunks, perhaps none; None at the end. All chunks before must be assembled."""
        ...

    def fail(self, error: APIError) -> Exception:
        """End the source with an error."""
        ...

    def completion(self) -> ChatCompletion:
        """Return the completion as far as it was assembled."""
        ...

    def close(self) -> None:
        """Close the source; it returns no further chunks."""
        ...


T = TypeVar("T", bound=ChunkSource)


class Cursor:
    """The position up to which a stream has been read, and the code that reads more.

    Attributes:
        ready: Iterator over the chunks after the cursor; each step moves the cursor.
        texts: Iterator over the texts of choice 0 in a `TextBatch`; each step moves the cursor. It is used in place of
            `ready`, because chunks of a batch are made only if a view needs chunks. None if `ready` is in use.
        queues: The queues into which chunks go once a choice has its own reader, or None.
        filling: Whether a task is filling.
        read_whole: Whether chunks of all choices have been asked for.
        waiters: The tasks that wait while another task fills; None until a task had to wait.
        refused: Whether a chunk could not be assembled.
    """

    __slots__ = (
        "_assembler", "_batch", "_pending", "_reader", "_source", "filling", "queues", "read_whole", "ready", "refused", "texts", "waiters",
    )  # fmt: skip

    def __init__(
        self, source: ChunkSource, assembler: CompletionAssembler, reader: StreamReader | None
    ) -> None:
        self._source = source
        self._reader = reader  # the source, if it is a `StreamReader`, which `fill` reads by a shorter path
        self._assembler = assembler
        # The chunks that are not assembled yet: either at most `_TOGETHER` chunks and those of one more read, or one batch.
        self._pending: list[ChatCompletionChunk] = []
        self._batch: TextBatch | None = None
        self.read_whole = False
        self.ready: Iterator[ChatCompletionChunk] = iter(())
        self.texts: Iterator[str] | None = None
        self.queues: ChoiceQueues | None = None
        self.filling = False
        self.waiters: Waiters | None = None
        self.refused = False

    async def fill(self, queue: ChunkQueue | None = None) -> bool:
        """Make one read for all tasks that read this stream; put the chunks after the cursor, or into the queues.

        Args:
            queue: The queue in which the caller waits for chunks; None if it waits for any chunk.

        Returns:
            False at the end of a whole stream; else True, although the read may have had no chunk for the caller.

        Raises:
            APIError: The error that ended the stream.
        """
        if self.filling:
            if self.waiters is None:
                self.waiters = Waiters()
            await self.waiters.wait(queue)
            return True
        self.filling = True
        reader = self._reader
        chunks: Sequence[ChatCompletionChunk] | None = None
        try:
            if reader is not None and reader.steady and (waiter := reader.body.start_read()) is not None:
                try:
                    await waiter
                except RuntimeError:
                    reader.body.cancel_read()  # another event loop is running; `next_chunks` raises an error that says so
                except BaseException:
                    reader.body.cancel_read()
                    raise
                else:
                    chunks = reader.finish_read()
                    if not chunks and not reader.received:
                        chunks = None
            if chunks is None:
                # The reader judges the end of the stream by the assembled completion, so all chunks must be in it.
                self.assemble_read()
                chunks = await self._source.next_chunks()
        finally:
            self.filling = False
            if self.waiters is not None and chunks is None:
                # The stream has ended; or this task was cancelled, and one of the waiting tasks takes over.
                self.waiters.wake_all()
        if chunks is None:
            return False
        # A reader of text takes its chunks from `texts`: it would miss chunks that are put into `ready`.
        alone = self._batch is None and self.texts is None and self.queues is None
        few = alone and len(self._pending) < _TOGETHER
        if few and type(chunks) is not TextBatch:
            self._pending += chunks  # does the same as `place`, and saves the call
            self.ready = iter(chunks)
        else:
            self.place(chunks)
        if self.waiters is not None and self.waiters.all:
            self.waiters.wake_unqueued()
            if queue is None or queue or queue.overflowed:
                self.waiters.wake_one()  # the caller has its chunk, so another task has to make the next read
        return True

    def place(self, chunks: Sequence[ChatCompletionChunk]) -> None:
        """Put chunks after the cursor, which has passed all earlier chunks; or into the queues, if there are any."""
        if type(chunks) is TextBatch:
            self.assemble_read()
            self._batch = chunks
        else:
            if self._batch is not None or len(self._pending) >= _TOGETHER:
                self.assemble_read()
            self._pending += chunks
        if self.queues is not None:
            self.queues.put(chunks)
            self.pass_all()
        elif type(chunks) is TextBatch and chunks.choice == 0 and chunks.field == "content":
            self.texts = iter(chunks.texts)
            self.ready = iter(())
        else:
            self.ready = iter(chunks)
            self.texts = None

    def read_past(self, chunks: Sequence[ChatCompletionChunk]) -> None:
        """Read chunks that arrive while a task awaits the completion; readers of single choices get their chunks."""
        self.pass_all()
        self.place(chunks)
        self.pass_all()
        self.assemble_read()
        if self.waiters is not None:
            self.waiters.wake_unqueued()

    def make_chunks(self) -> None:
        """Make chunks of the rest of a `TextBatch` that was being read as text."""
        self.assemble_read()
        self.ready = iter(self._batch or ())
        self.texts = None

    def assemble_read(self) -> None:
        """Add the chunks before the cursor to the completion."""
        left = length_hint(self.ready if self.texts is None else self.texts)
        batch: Sequence[ChatCompletionChunk] = self._pending if self._batch is None else self._batch
        passed = len(batch) - left
        if not passed:
            return
        read = batch[:passed] if left else batch
        if self._batch is not None:
            self._batch = self._batch[passed:] if left else None
        else:
            self._pending = self._pending[passed:]
        rest: Iterable[ChatCompletionChunk] = ()
        try:
            if type(read) is TextBatch:
                self._assembler.extend(read)
            else:
                rest = iter(read)
                self._assembler.extend(rest)
        except StreamError as error:
            self.refused = True
            # The chunks after the refused one have been read as well, and belong in the error's `.partial`.
            for chunk in rest:
                with contextlib.suppress(StreamError):
                    self._assembler.add(chunk)
            self._source.fail(error)  # the next read raises the error

    def pass_all(self) -> None:
        """Move the cursor past all chunks that are ready."""
        self.ready = iter(())
        self.texts = None

    def open_choice(self, index: int, limit: int) -> ChunkQueue:
        """Return the queue of a choice; after the first call, chunks go into queues."""
        if self.queues is not None:
            self.assemble_read()  # a new queue begins with what the assembler has of the choice
            return self.queues.open(index)
        if self.texts is not None:
            self.make_chunks()
        self.assemble_read()
        rest = list(self.ready)
        self.queues = ChoiceQueues(self._assembler, limit, main=self.read_whole)
        queue = self.queues.open(index)
        self.queues.put(rest)
        self.assemble_read()
        return queue


class ChunkStream(AsyncForOnly, AsyncOnly):
    """A completion as it is generated: an async iterator of chunks.

    Args:
        source: The source of the chunks.
        assembler: Gets the chunks that have been read.
        buffered: How many characters a slow reader may leave in its queue.
        reader: The source again, if it is a `StreamReader`.
        answer: The form of the answers; None if the request names no type.

    Attributes:
        advice: What to do about a stream that was dropped before its end; a part of the warning.
    """

    advice = "use 'async with', or call aclose()"

    def __init__(
        self,
        source: ChunkSource,
        assembler: CompletionAssembler,
        *,
        buffered: int,
        reader: StreamReader | None = None,
        answer: Answer[Any] | None = None,
    ) -> None:
        self._source = source
        self._answer = answer
        self._assembler = assembler
        self._buffered = buffered
        self._cursor = Cursor(source, assembler, reader)
        self._builder: EventBuilder | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        cursor = self._cursor
        while True:
            if cursor.texts is not None:
                cursor.make_chunks()
            for chunk in cursor.ready:
                return chunk
            queue = None
            if cursor.queues is not None:
                queue = cursor.queues.open_main()
                if queue:
                    return queue.take()
                if queue.overflowed:
                    raise self.overflow("the reader of the whole stream")
            cursor.read_whole = True
            if not await cursor.fill(queue):
                raise StopAsyncIteration

    def read_from_thread(self, make_source: Callable[[ChunkSource], T], waiters: Waiters) -> T:
        """Let a thread other than the loop's read this stream, before anything has been read.

        Args:
            make_source: Makes a source that blocks the thread, from the source of this stream.
            waiters: Takes the place of the waiting tasks.
        """
        source = make_source(self._source)
        self._source = source
        self._cursor = Cursor(source, self._assembler, None)
        self._cursor.waiters = waiters
        return source

    # Views

    @property
    def text(self) -> TextStream:
        """The text of choice 0, piece by piece; shares the cursor."""
        return _CursorTextStream(self, self._cursor)

    def events(self) -> EventStream[Any]:
        """The stream as typed events; shares the cursor."""
        if self._builder is None:
            self._cursor.assemble_read()
            self._builder = EventBuilder(self._assembler, self._answer, self._source.completion)
            if self._cursor.queues is not None:
                self._builder.detach()
        return EventStream(self, self._cursor, self._builder)

    def choice(self, index: int) -> ChoiceStream:
        """The chunks of one choice; several tasks may read several choices.

        A task that has no chunk to return reads the socket for all tasks. Queues exist from the first call of this method
        on. If a later call is the first for its index, one chunk contains everything that this choice received in the
        meantime. A further call for the same index continues at the same place.

        Args:
            index: Index of the choice, from 0. The stream of a choice that never arrives is empty.
        """
        if self._builder is not None:
            self._cursor.assemble_read()
            self._builder.detach()
        return ChoiceStream(self, self._cursor, index, self._cursor.open_choice(index, self._buffered))

    def overflow(self, who: str) -> StreamLimitError:
        """Make the error of a reader that fell too far behind."""
        partial = self._received
        partial.receive(None)  # removes the headers, which may echo a key
        return StreamLimitError(
            f"{who} fell behind by more than buffered_bytes={self._buffered}; "
            "read faster, or raise Limits(buffered_bytes=...)",
            partial=partial,
        )

    # The completion

    @property
    def _received(self) -> ChatCompletion:
        self._cursor.assemble_read()
        return self._source.completion()

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion as far as it has been read; a new object each time."""
        completion = self._received
        return completion if self._answer is None else parse_so_far(completion, self._answer)

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The same as `snapshot`."""
        return self.snapshot

    async def completion(self) -> ChatCompletion:
        """Read to the end; return the whole completion.

        Raises:
            StreamError: If the stream is not whole; ``.partial`` has everything received.
            OutputError: If the answer is not a value of the type in the request.
        """
        self._cursor.pass_all()
        while await self._cursor.fill():
            self._cursor.pass_all()
        return self.whole()

    def whole(self) -> ChatCompletion:
        """Return the whole completion of a stream that was read to its end.

        Raises:
            OutputError: If the answer is not a value of the type in the request.
        """
        completion = self._received
        return completion if self._answer is None else parse_completion(completion, self._answer)

    def check(self) -> None:
        """Raise an error if an answer is not a value of its type. The stream must have been read to its end."""
        if self._answer is not None:
            self.whole()

    async def get_final_completion(self) -> ChatCompletion:
        """The same as `completion`."""
        return await self.completion()

    async def until_done(self) -> Self:
        """Read to the end; return the stream itself.

        Raises:
            StreamError: If the stream is not whole.
            OutputError: If the answer is not a value of the type in the request.
        """
        await self.completion()
        return self

    # Facts about the stream

    @property
    def id(self) -> str:
        """The completion's id; "" until it is known."""
        self._cursor.assemble_read()
        return self._assembler.id

    @property
    def usage(self) -> CompletionUsage | None:
        """The token usage of the request; None until the server reports it."""
        self._cursor.assemble_read()
        return self._assembler.usage

    @property
    def completed(self) -> bool:
        """Whether the stream was read to its end and nothing is missing."""
        return self._source.ended

    # Closing

    def leave(self) -> None:
        """Close the stream, in the thread of the loop."""
        self._cursor.assemble_read()  # closing informs hooks, which get the completion as far as it was read
        self._source.close()

    async def aclose(self) -> None:
        """Close the stream; if it was not read to its end, the connection is closed at once."""
        self.leave()

    async def close(self) -> None:
        """The same as `aclose`."""
        self.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class TextStream(NoMethod):
    """The text of one choice, piece by piece."""

    __slots__ = ("_index", "_stream")

    def __init__(self, stream: AsyncIterator[ChatCompletionChunk], index: int = 0) -> None:
        self._stream = stream
        self._index = index

    def __aiter__(self) -> TextStream:
        return self

    async def __anext__(self) -> str:
        while True:
            text = _text_of(await self._stream.__anext__(), self._index)
            if text:
                return text


class _CursorTextStream(TextStream):
    """The text of choice 0, read with the cursor of its stream."""

    __slots__ = ("_cursor",)

    def __init__(self, stream: ChunkStream, cursor: Cursor) -> None:
        super().__init__(stream)
        self._cursor = cursor

    async def __anext__(self) -> str:
        cursor = self._cursor
        while cursor.queues is None:
            if cursor.texts is None:
                for chunk in cursor.ready:
                    # Nearly always the only choice is choice 0, and no call of `_text_of` is needed.
                    choices = chunk.choices
                    one = len(choices) == 1 and choices[0].index == 0
                    text = choices[0].delta.content if one else _text_of(chunk, 0)
                    if text:
                        return text
            else:
                for text in cursor.texts:
                    if text:
                        return text
            cursor.read_whole = True
            if not await cursor.fill():
                raise StopAsyncIteration
        return await super().__anext__()


def _text_of(chunk: ChatCompletionChunk, index: int) -> str:
    """Return the text that a chunk adds to a choice; "" if it adds none."""
    return "".join(choice.delta.content or "" for choice in chunk.choices if choice.index == index)


class EventStream(Generic[T_co]):
    """The stream as typed events.

    If the answer is not a value of the type in the request, an `OutputError` is raised at the end.

    If reading stops between two events of one chunk, only this iterator has the remaining events of the chunk.
    """

    __slots__ = ("_builder", "_cursor", "_ended", "_events", "_stream")

    def __init__(self, stream: ChunkStream, cursor: Cursor, builder: EventBuilder) -> None:
        self._stream = stream
        self._cursor = cursor
        self._builder = builder
        self._events: deque[ChatCompletionStreamEvent[T_co]] = deque()
        self._ended = False

    def __aiter__(self) -> EventStream[T_co]:
        return self

    async def __anext__(self) -> ChatCompletionStreamEvent[T_co]:
        while not self._events:
            if self._ended:
                self._stream.check()
                raise StopAsyncIteration
            try:
                chunk = await self._stream.__anext__()
            except StopAsyncIteration:
                self._ended = True
                self._events.extend(self._builder.end())
            else:
                self._cursor.assemble_read()  # events describe how the chunk changed the completion
                if not self._cursor.refused:  # otherwise the next read raises the error
                    self._events.extend(self._builder.add(chunk))
        return self._events.popleft()


class ChoiceStream:
    """The chunks of one choice; several tasks may read several choices.

    Attributes:
        index: Index of the choice.
    """

    __slots__ = ("_cursor", "_queue", "_stream", "index")

    def __init__(self, stream: ChunkStream, cursor: Cursor, index: int, queue: ChunkQueue) -> None:
        self._stream = stream
        self._cursor = cursor
        self._queue = queue
        self.index = index

    @property
    def text(self) -> TextStream:
        """The text of this choice, piece by piece; shares the cursor of this reader."""
        return TextStream(self, self.index)

    def __aiter__(self) -> ChoiceStream:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        queue = self._queue
        while not queue:
            if queue.overflowed:
                raise self._stream.overflow(f"the reader of choice {self.index}")
            if not await self._cursor.fill(queue):
                raise StopAsyncIteration
        return queue.take()
